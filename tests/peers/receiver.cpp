// A console built on the OpenIGTLink C++ library: connects, receives for a while with CRC checks on, and prints
// one JSON line per device it has seen. What it cannot unpack counts as an error.
//
//   receiver HOST PORT SECONDS
#include <igtlClientSocket.h>
#include <igtlImageMessage.h>
#include <igtlMessageHeader.h>
#include <igtlPointMessage.h>
#include <igtlPolyDataMessage.h>
#include <igtlStatusMessage.h>
#include <igtlTrackingDataMessage.h>
#include <igtlTransformMessage.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>

namespace {

struct Seen {
  int count = 0, errors = 0;
  std::string last;
};

// Receives the body into a message of the right type and unpacks it; what it holds, as JSON members.
template <class Message>
bool receive(igtl::ClientSocket* socket, igtl::MessageHeader* header, typename Message::Pointer& message) {
  message = Message::New();
  message->SetMessageHeader(header);
  message->AllocatePack();
  if (message->GetPackBodySize() > 0 &&
      socket->Receive(message->GetPackBodyPointer(), message->GetPackBodySize()) != message->GetPackBodySize())
    return false;
  return (message->Unpack(1) & igtl::MessageHeader::UNPACK_BODY) != 0;
}

std::string describe(igtl::ClientSocket* socket, igtl::MessageHeader* header, bool& ok) {
  const std::string type = header->GetDeviceType();
  std::ostringstream text;
  if (type == "TRANSFORM") {
    igtl::TransformMessage::Pointer message;
    ok = receive<igtl::TransformMessage>(socket, header, message);
    igtl::Matrix4x4 m;
    message->GetMatrix(m);
    text << "\"position\": [" << m[0][3] << ", " << m[1][3] << ", " << m[2][3] << "]";
  } else if (type == "IMAGE") {
    igtl::ImageMessage::Pointer message;
    ok = receive<igtl::ImageMessage>(socket, header, message);
    int size[3];
    float spacing[3], origin[3];
    message->GetDimensions(size);
    message->GetSpacing(spacing);
    message->GetOrigin(origin);
    text << "\"size\": [" << size[0] << ", " << size[1] << ", " << size[2] << "], \"spacing\": [" << spacing[0] << ", "
         << spacing[1] << ", " << spacing[2] << "], \"scalar\": " << message->GetScalarType();
  } else if (type == "POLYDATA") {
    igtl::PolyDataMessage::Pointer message;
    ok = receive<igtl::PolyDataMessage>(socket, header, message);
    const int points = message->GetPoints() ? message->GetPoints()->GetNumberOfPoints() : 0;
    const int lines = message->GetLines() ? message->GetLines()->GetNumberOfCells() : 0;
    const int polygons = message->GetPolygons() ? message->GetPolygons()->GetNumberOfCells() : 0;
    text << "\"points\": " << points << ", \"lines\": " << lines << ", \"polygons\": " << polygons;
  } else if (type == "POINT") {
    igtl::PointMessage::Pointer message;
    ok = receive<igtl::PointMessage>(socket, header, message);
    text << "\"points\": " << message->GetNumberOfPointElement();
  } else if (type == "TDATA") {
    igtl::TrackingDataMessage::Pointer message;
    ok = receive<igtl::TrackingDataMessage>(socket, header, message);
    text << "\"tools\": " << message->GetNumberOfTrackingDataElements();
  } else if (type == "STATUS") {
    igtl::StatusMessage::Pointer message;
    ok = receive<igtl::StatusMessage>(socket, header, message);
    text << "\"code\": " << message->GetCode() << ", \"name\": \"" << message->GetErrorName() << "\"";
  } else {
    socket->Skip(header->GetBodySizeToRead(), 0);
    ok = true;
    text << "\"skipped\": true";
  }
  return text.str();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: receiver HOST PORT SECONDS\n");
    return 2;
  }
  igtl::ClientSocket::Pointer socket = igtl::ClientSocket::New();
  if (socket->ConnectToServer(argv[1], std::atoi(argv[2])) != 0) {
    std::fprintf(stderr, "cannot connect\n");
    return 1;
  }
  socket->SetReceiveTimeout(2000);
  // Lists of tools go to those alone who ask for them.
  auto start = igtl::StartTrackingDataMessage::New();
  start->SetDeviceName("Tools");
  start->SetResolution(0);
  start->Pack();
  socket->Send(start->GetPackPointer(), start->GetPackSize());
  std::map<std::string, Seen> devices;
  igtl::MessageHeader::Pointer header = igtl::MessageHeader::New();
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[3]));
  while (std::chrono::steady_clock::now() < end) {
    header->InitPack();
    if (socket->Receive(header->GetPackPointer(), header->GetPackSize()) != header->GetPackSize()) break;
    header->Unpack();
    Seen& seen = devices[std::string(header->GetDeviceType()) + "/" + header->GetDeviceName()];
    bool ok = false;
    seen.last = describe(socket, header, ok);
    seen.count += 1;
    seen.errors += !ok;
  }
  socket->CloseSocket();
  for (const auto& [name, seen] : devices)
    std::printf("{\"device\": \"%s\", \"count\": %d, \"errors\": %d, %s}\n", name.c_str(), seen.count, seen.errors,
                seen.last.c_str());
  return 0;
}
