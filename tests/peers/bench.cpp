// The OpenIGTLink C++ library at both ends of the scenarios of `navnode bench igtl`.
//
//   bench serve PORT KIND COUNT SECONDS   KIND: echo | flood | image SIZE | volume SIZE | tools
//   bench receive PORT KIND COUNT         prints one JSON line
//
// Servers print "ready" when they listen. Clocks are CLOCK_REALTIME, as the time stamps of the messages.
#include <igtlClientSocket.h>
#include <igtlImageMessage.h>
#include <igtlMessageHeader.h>
#include <igtlServerSocket.h>
#include <igtlTransformMessage.h>

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::system_clock;

double now_s() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

double cpu_s() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + 1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

igtl::TransformMessage::Pointer transform(const std::string& name) {
  igtl::TransformMessage::Pointer message = igtl::TransformMessage::New();
  igtl::Matrix4x4 m;
  igtl::IdentityMatrix(m);
  message->SetMatrix(m);
  message->SetDeviceName(name.c_str());
  igtl::TimeStamp::Pointer time = igtl::TimeStamp::New();
  time->GetTime();
  message->SetTimeStamp(time);
  message->Pack();
  return message;
}

igtl::ImageMessage::Pointer picture(int i, int j, int k) {
  igtl::ImageMessage::Pointer message = igtl::ImageMessage::New();
  message->SetDimensions(i, j, k);
  message->SetScalarTypeToUint16();
  message->SetDeviceName("XRay");
  message->AllocateScalars();
  std::memset(message->GetScalarPointer(), 7, message->GetImageSize());
  return message;
}

// Receives one message, checks and unpacks it; its device and time stamp.
bool receive(igtl::Socket* socket, std::string& device, double& stamp_s) {
  igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
  header->InitPack();
  if (socket->Receive(header->GetPackPointer(), header->GetPackSize()) != header->GetPackSize()) return false;
  header->Unpack();
  device = header->GetDeviceName();
  igtl::TimeStamp::Pointer time = igtl::TimeStamp::New();
  header->GetTimeStamp(time);
  stamp_s = time->GetTimeStamp();
  igtl::MessageBase::Pointer message;
  if (std::strcmp(header->GetDeviceType(), "TRANSFORM") == 0)
    message = igtl::TransformMessage::New().GetPointer();
  else
    message = igtl::ImageMessage::New().GetPointer();
  message->SetMessageHeader(header);
  message->AllocatePack();
  if (socket->Receive(message->GetPackBodyPointer(), message->GetPackBodySize()) != message->GetPackBodySize())
    return false;
  return (message->Unpack(1) & igtl::MessageHeader::UNPACK_BODY) != 0;
}

double percentile(std::vector<double>& values, double share) {
  if (values.empty()) return -1;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * values.size()))];
}

void serve(igtl::Socket* socket, const std::string& kind, int count, double seconds, int size) {
  std::string device;
  double stamp_s;
  if (kind == "echo") {
    while (receive(socket, device, stamp_s)) {
      auto answer = transform(device);
      if (!socket->Send(answer->GetPackPointer(), answer->GetPackSize())) return;
    }
  } else if (kind == "flood") {
    for (int i = 0; i < count; ++i) {
      auto message = transform("ToolToTracker");
      if (!socket->Send(message->GetPackPointer(), message->GetPackSize())) return;
    }
  } else if (kind == "tools") {
    const auto begin = Clock::now();
    for (int tick = 0; tick < static_cast<int>(seconds * 250); ++tick) {
      std::this_thread::sleep_until(begin + std::chrono::milliseconds(4) * tick);
      for (int tool = 0; tool < 8; ++tool) {
        auto message = transform("Tool" + std::to_string(tool));
        if (!socket->Send(message->GetPackPointer(), message->GetPackSize())) return;
      }
    }
  } else {
    auto message = kind == "image" ? picture(size, size, 1) : picture(size, size, size);
    for (int i = 0; i < count; ++i) {
      message->Pack();
      if (!socket->Send(message->GetPackPointer(), message->GetPackSize())) return;
    }
  }
}

int receive_all(igtl::Socket* socket, const std::string& kind, int count) {
  std::vector<double> times;
  std::string device;
  double stamp_s, first_s = 0, last_s = 0;
  int received = 0;
  const double cpu_before = cpu_s();
  if (kind == "echo") {
    for (int i = 0; i < count; ++i) {
      const auto began = std::chrono::steady_clock::now();
      auto message = transform("Ping");
      if (!socket->Send(message->GetPackPointer(), message->GetPackSize()) || !receive(socket, device, stamp_s)) break;
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
      ++received;
    }
  } else {
    while (received < count && receive(socket, device, stamp_s)) {
      last_s = now_s();
      if (received++ == 0) first_s = last_s;
      times.push_back(last_s - stamp_s);
    }
  }
  std::printf("{\"received\": %d, \"elapsed_s\": %.9f, \"cpu_s\": %.6f, \"p50_s\": %.9f, \"p99_s\": %.9f}\n", received,
              last_s - first_s, cpu_s() - cpu_before, percentile(times, 0.5), percentile(times, 0.99));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: bench serve|receive PORT KIND COUNT [SECONDS] [SIZE]\n");
    return 2;
  }
  const std::string role = argv[1], kind = argv[3];
  const int port = std::atoi(argv[2]), count = std::atoi(argv[4]);
  const double seconds = argc > 5 ? std::atof(argv[5]) : 1;
  const int size = argc > 6 ? std::atoi(argv[6]) : 0;
  if (role == "serve") {
    igtl::ServerSocket::Pointer server = igtl::ServerSocket::New();
    if (server->CreateServer(port) < 0) return 1;
    std::printf("ready\n");
    std::fflush(stdout);
    igtl::ClientSocket::Pointer socket = server->WaitForConnection(20000);
    if (socket.IsNull()) return 1;
    serve(socket, kind, count, seconds, size);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    socket->CloseSocket();
    return 0;
  }
  igtl::ClientSocket::Pointer socket = igtl::ClientSocket::New();
  if (socket->ConnectToServer("127.0.0.1", port) != 0) return 1;
  return receive_all(socket, kind, count);
}
