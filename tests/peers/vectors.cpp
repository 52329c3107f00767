// Writes one message of every type that the OpenIGTLink C++ library has, each into a file of its own.
// tests/igtl/test_vectors.py makes the same messages and compares the bytes.
//
//   vectors FOLDER
#include <igtlBindMessage.h>
#include <igtlCapabilityMessage.h>
#include <igtlColorTableMessage.h>
#include <igtlImageMessage.h>
#include <igtlImageMetaMessage.h>
#include <igtlLabelMetaMessage.h>
#include <igtlNDArrayMessage.h>
#include <igtlPointMessage.h>
#include <igtlPolyDataMessage.h>
#include <igtlPositionMessage.h>
#include <igtlQuaternionTrackingDataMessage.h>
#include <igtlSensorMessage.h>
#include <igtlStatusMessage.h>
#include <igtlStringMessage.h>
#include <igtlTrackingDataMessage.h>
#include <igtlTrajectoryMessage.h>
#include <igtlTransformMessage.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

namespace {

std::string folder;

igtl::TimeStamp::Pointer stamp() {
  igtl::TimeStamp::Pointer time = igtl::TimeStamp::New();
  time->SetTime(1700000000u, 500000000u);
  return time;
}

void write(const std::string& name, igtl::MessageBase* message, const char* device = "Device") {
  igtl::TimeStamp::Pointer time = stamp();
  message->SetDeviceName(device);
  message->SetTimeStamp(time);
  message->Pack();
  std::ofstream file(folder + "/" + name + ".bin", std::ios::binary);
  file.write(static_cast<const char*>(message->GetPackPointer()), message->GetPackSize());
}

void fill(igtl::Matrix4x4& m) {
  float value = 1.0f;
  for (int row = 0; row < 4; ++row)
    for (int column = 0; column < 4; ++column) m[row][column] = row < 3 ? value++ * 0.5f : (column == 3);
}

igtl::ImageMessage::Pointer image(int scalar, int components, bool part) {
  igtl::ImageMessage::Pointer message = igtl::ImageMessage::New();
  message->SetDimensions(4, 3, 2);
  message->SetSpacing(1.0f, 2.0f, 4.0f);
  message->SetOrigin(10.0f, 20.0f, 30.0f);
  message->SetScalarType(scalar);
  message->SetNumComponents(components);
  if (part) message->SetSubVolume(2, 2, 1, 1, 1, 1);
  message->AllocateScalars();
  unsigned char* bytes = static_cast<unsigned char*>(message->GetScalarPointer());
  for (int i = 0; i < message->GetSubVolumeImageSize(); ++i) bytes[i] = static_cast<unsigned char>(i % 63);
  return message;
}

void surfaces() {
  igtl::PolyDataMessage::Pointer message = igtl::PolyDataMessage::New();
  igtl::PolyDataPointArray::Pointer points = igtl::PolyDataPointArray::New();
  for (int i = 0; i < 5; ++i) points->AddPoint(i, i * 0.5f, -i);
  message->SetPoints(points);
  igtlUint32 one[] = {4}, two[] = {0, 1}, three[] = {0, 1, 2}, four[] = {3, 2, 1, 0};
  igtl::PolyDataCellArray::Pointer vertices = igtl::PolyDataCellArray::New(), lines = igtl::PolyDataCellArray::New(),
                                   polygons = igtl::PolyDataCellArray::New(), strips = igtl::PolyDataCellArray::New();
  vertices->AddCell(1, one);
  lines->AddCell(2, two);
  lines->AddCell(3, three);
  polygons->AddCell(3, three);
  polygons->AddCell(4, four);
  strips->AddCell(4, four);
  message->SetVertices(vertices);
  message->SetLines(lines);
  message->SetPolygons(polygons);
  message->SetTriangleStrips(strips);
  igtl::PolyDataAttribute::Pointer scalars = igtl::PolyDataAttribute::New(), vectors = igtl::PolyDataAttribute::New();
  scalars->SetType(igtl::PolyDataAttribute::POINT_SCALAR);
  scalars->SetName("heat");
  scalars->SetSize(5);
  // Not of cells: release 1.11 gives those nine components, whatever they are.
  vectors->SetType(igtl::PolyDataAttribute::POINT_VECTOR);
  vectors->SetName("v");
  vectors->SetSize(2);
  for (unsigned i = 0; i < 5; ++i) {
    igtlFloat32 value = i * 0.25f;
    scalars->SetNthData(i, &value);
  }
  for (unsigned i = 0; i < 2; ++i) {
    igtlFloat32 value[] = {0.0f, 1.0f, float(i)};
    vectors->SetNthData(i, value);
  }
  message->AddAttribute(scalars);
  message->AddAttribute(vectors);
  write("polydata", message);
}

void poses() {
  igtl::Matrix4x4 m;
  fill(m);
  igtl::TransformMessage::Pointer transform = igtl::TransformMessage::New();
  transform->SetMatrix(m);
  write("transform", transform);

  // POSITION_ONLY is not tried: release 1.11 writes beyond its buffer when it packs that.
  igtl::PositionMessage::Pointer position = igtl::PositionMessage::New();
  position->SetPosition(1.0f, -2.0f, 3.5f);
  position->SetQuaternion(0.5f, 0.5f, -0.5f, 0.5f);
  write("position", position);

  igtl::TrackingDataMessage::Pointer tracking = igtl::TrackingDataMessage::New();
  igtl::QuaternionTrackingDataMessage::Pointer quaternions = igtl::QuaternionTrackingDataMessage::New();
  for (int i = 0; i < 2; ++i) {
    const std::string name = "Tool" + std::to_string(i);
    igtl::TrackingDataElement::Pointer tool = igtl::TrackingDataElement::New();
    tool->SetName(name.c_str());
    tool->SetType(igtl::TrackingDataElement::TYPE_6D);
    tool->SetMatrix(m);
    tracking->AddTrackingDataElement(tool);
    igtl::QuaternionTrackingDataElement::Pointer turned = igtl::QuaternionTrackingDataElement::New();
    turned->SetName(name.c_str());
    turned->SetType(igtl::QuaternionTrackingDataElement::TYPE_3D);
    turned->SetPosition(1.0f, 2.0f, 3.0f);
    turned->SetQuaternion(0.5f, -0.5f, 0.5f, 0.5f);
    quaternions->AddQuaternionTrackingDataElement(turned);
  }
  write("tdata", tracking);
  write("qtdata", quaternions);

  igtl::PointMessage::Pointer points = igtl::PointMessage::New();
  igtl::PointElement::Pointer point = igtl::PointElement::New();
  point->SetName("Entry");
  point->SetGroupName("Landmark");
  point->SetRGBA(1, 2, 3, 4);
  point->SetPosition(1.0f, 2.0f, 3.0f);
  point->SetRadius(2.5f);
  point->SetOwner("Image");
  points->AddPointElement(point);
  write("point", points);

  igtl::TrajectoryMessage::Pointer trajectories = igtl::TrajectoryMessage::New();
  igtl::TrajectoryElement::Pointer path = igtl::TrajectoryElement::New();
  path->SetName("Screw");
  path->SetGroupName("Plan");
  path->SetType(igtl::TrajectoryElement::TYPE_ENTRY_TARGET);
  path->SetRGBA(9, 8, 7, 6);
  path->SetEntryPosition(1.0f, 2.0f, 3.0f);
  path->SetTargetPosition(4.0f, 5.0f, 6.0f);
  path->SetRadius(3.25f);
  path->SetOwner("CT");
  trajectories->AddTrajectoryElement(path);
  write("trajectory", trajectories);
}

void texts() {
  igtl::StatusMessage::Pointer status = igtl::StatusMessage::New();
  status->SetCode(igtl::StatusMessage::STATUS_NOT_READY);
  status->SetSubCode(-3);
  status->SetErrorName("NotReady");
  status->SetStatusString("warming up");
  write("status", status);

  igtl::StringMessage::Pointer text = igtl::StringMessage::New();
  text->SetString("hello");
  write("string", text);

  igtl::CapabilityMessage::Pointer capability = igtl::CapabilityMessage::New();
  capability->SetTypes({"IMAGE", "TRANSFORM"});
  write("capability", capability);

  igtl::GetTransformMessage::Pointer get_transform = igtl::GetTransformMessage::New();
  write("get_transform", get_transform);
  igtl::GetPolyDataMessage::Pointer get_polydata = igtl::GetPolyDataMessage::New();
  write("get_polydata", get_polydata);
  igtl::GetImageMetaMessage::Pointer get_imgmeta = igtl::GetImageMetaMessage::New();
  write("get_imgmeta", get_imgmeta);
  igtl::StartTrackingDataMessage::Pointer start = igtl::StartTrackingDataMessage::New();
  start->SetResolution(40);
  start->SetCoordinateName("Patient");
  write("start_tdata", start);
  igtl::StopTrackingDataMessage::Pointer stop = igtl::StopTrackingDataMessage::New();
  write("stop_tdata", stop);
  igtl::RTSTrackingDataMessage::Pointer ready = igtl::RTSTrackingDataMessage::New();
  ready->SetStatus(igtl::RTSTrackingDataMessage::STATUS_SUCCESS);
  write("ready_tdata", ready);
}

void numbers() {
  igtl::SensorMessage::Pointer sensor = igtl::SensorMessage::New();
  sensor->SetLength(3);
  for (unsigned i = 0; i < 3; ++i) sensor->SetValue(i, i * 1.5);
  write("sensor", sensor);

  igtl::Array<igtlFloat32> array;
  std::vector<igtlUint16> size = {2, 3};
  array.SetSize(size);
  igtlFloat32 values[] = {0, 1, 2, 3, 4, 5};
  array.SetArray(values);
  igtl::NDArrayMessage::Pointer nd = igtl::NDArrayMessage::New();
  nd->SetArray(igtl::NDArrayMessage::TYPE_FLOAT32, &array);
  write("ndarray", nd);

  igtl::ColorTableMessage::Pointer colors = igtl::ColorTableMessage::New();
  colors->SetIndexTypeToUint8();
  colors->SetMapTypeToUint16();
  colors->AllocateTable();
  igtlUint16* table = static_cast<igtlUint16*>(colors->GetTablePointer());
  for (int i = 0; i < 256; ++i) table[i] = static_cast<igtlUint16>(i * 257);
  write("colors", colors);

  igtl::TimeStamp::Pointer time = stamp();
  igtl::ImageMetaMessage::Pointer images = igtl::ImageMetaMessage::New();
  igtl::ImageMetaElement::Pointer element = igtl::ImageMetaElement::New();
  element->SetName("Chest");
  element->SetDeviceName("CT1");
  element->SetModality("CT");
  element->SetPatientName("Nobody");
  element->SetPatientID("0");
  element->SetTimeStamp(time);
  element->SetSize(512, 256, 64);
  element->SetScalarType(igtl::ImageMessage::TYPE_INT16);
  images->AddImageMetaElement(element);
  write("imgmeta", images);

  igtl::LabelMetaMessage::Pointer labels = igtl::LabelMetaMessage::New();
  igtl::LabelMetaElement::Pointer label = igtl::LabelMetaElement::New();
  label->SetName("Spine");
  label->SetDeviceName("Labels");
  label->SetLabel(7);
  label->SetRGBA(10, 20, 30, 40);
  label->SetSize(64, 32, 16);
  label->SetOwner("CT1");
  labels->AddLabelMetaElement(label);
  write("lbmeta", labels);

  igtl::StringMessage::Pointer text = igtl::StringMessage::New();
  text->SetDeviceName("Odd");
  text->SetString("xyz");
  igtl::TransformMessage::Pointer transform = igtl::TransformMessage::New();
  transform->SetDeviceName("T");
  igtl::Matrix4x4 m;
  fill(m);
  transform->SetMatrix(m);
  text->Pack();
  transform->Pack();
  igtl::BindMessage::Pointer bind = igtl::BindMessage::New();
  bind->Init();
  bind->AppendChildMessage(text);
  bind->AppendChildMessage(transform);
  write("bind", bind);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: vectors FOLDER\n");
    return 2;
  }
  folder = argv[1];
  poses();
  texts();
  numbers();
  surfaces();
  write("image_u8", image(igtl::ImageMessage::TYPE_UINT8, 1, false));
  write("image_i16", image(igtl::ImageMessage::TYPE_INT16, 1, false));
  write("image_u16_rgb", image(igtl::ImageMessage::TYPE_UINT16, 3, false));
  write("image_f32", image(igtl::ImageMessage::TYPE_FLOAT32, 1, false));
  write("image_f64", image(igtl::ImageMessage::TYPE_FLOAT64, 1, false));
  write("image_part", image(igtl::ImageMessage::TYPE_UINT16, 1, true));
  return 0;
}
