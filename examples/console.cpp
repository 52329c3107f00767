// A console in a few lines, with the OpenIGTLink C++ library: prints where the drill's tip is while it may be trusted.
//
//   apt-get install libopenigtlink-dev
//   g++ -std=c++17 -I/usr/include/openigtlink examples/console.cpp -o console -lOpenIGTLink -lpthread
//   navnode demo --headless &
//   ./console 127.0.0.1 18944 10
//
// To clients of header version 1, as this one, the node does not send what is INVALID: a pose that no longer comes must no
// longer be shown.
#include <igtlClientSocket.h>
#include <igtlMessageHeader.h>
#include <igtlTransformMessage.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

constexpr int kSilentMs = 400;  // as long as the node itself takes a tool's pose for current

using Clock = std::chrono::steady_clock;

// Whether all of it came. Versions of the library differ in the type of what Receive returns.
bool receive(igtl::ClientSocket* socket, void* into, long long size, bool& timed_out) {
  timed_out = false;
  return static_cast<long long>(socket->Receive(into, static_cast<int>(size), timed_out)) == size;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: console HOST PORT SECONDS\n");
    return 2;
  }
  igtl::ClientSocket::Pointer socket = igtl::ClientSocket::New();
  if (socket->ConnectToServer(argv[1], std::atoi(argv[2])) != 0) {
    std::fprintf(stderr, "%s:%s: nobody listens there\n", argv[1], argv[2]);
    return 1;
  }
  socket->SetReceiveTimeout(kSilentMs);
  const auto ends = Clock::now() + std::chrono::seconds(std::atoi(argv[3]));
  auto seen = Clock::now();
  bool shown = false;
  int poses = 0;
  while (Clock::now() < ends) {
    igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
    header->InitPack();
    bool timed_out = false;
    const bool came = receive(socket, header->GetPackPointer(), header->GetPackSize(), timed_out);
    if (shown && Clock::now() - seen > std::chrono::milliseconds(kSilentMs)) {
      shown = false;
      std::printf("not shown\n");
    }
    if (timed_out) continue;
    if (!came) break;  // the connection ended
    header->Unpack();
    if (std::string(header->GetDeviceType()) != "TRANSFORM" || std::string(header->GetDeviceName()) != "DrillToVolume") {
      socket->Skip(header->GetBodySizeToRead(), 0);
      continue;
    }
    igtl::TransformMessage::Pointer pose = igtl::TransformMessage::New();
    pose->SetMessageHeader(header);
    pose->AllocatePack();
    if (!receive(socket, pose->GetPackBodyPointer(), pose->GetPackBodySize(), timed_out)) break;
    if (!(pose->Unpack(1) & igtl::MessageHeader::UNPACK_BODY)) continue;  // a wrong checksum
    igtl::Matrix4x4 volume_from_drill;
    pose->GetMatrix(volume_from_drill);
    seen = Clock::now();
    if (poses++ % 20 == 0 || !shown)
      std::printf("tip at R %.1f  A %.1f  S %.1f mm\n", volume_from_drill[0][3], volume_from_drill[1][3],
                  volume_from_drill[2][3]);
    shown = true;
  }
  socket->CloseSocket();
  std::printf("%d poses\n", poses);
  return 0;
}
