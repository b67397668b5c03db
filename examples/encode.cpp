// Tokens of camera frames, from an encoder that `s2robot export encoder=NAME` wrote, with ONNX Runtime's C++ API.
//
//   g++ -O2 -std=c++17 -I$ONNXRUNTIME_ROOT/include examples/encode.cpp -L$ONNXRUNTIME_ROOT/lib -lonnxruntime
//       -Wl,-rpath,$ONNXRUNTIME_ROOT/lib -o encode
//   ./encode encoder.onnx frames.rgb tokens.f32
//
// frames.rgb: frames one after the other, each height * width * 3 bytes, RGB, upright, rows from the top.
// tokens.f32: for each frame n * c float32 in the machine's byte order, row by row of the grid in manifest.json.
// Crop, resizing, normalisation, tiles and merging are inside the graph: hand it what the camera delivers.

#include <onnxruntime_cxx_api.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

class Encoder {
 public:
  // `threads` of one inference. On a controller leave a core to the loop that has to meet its deadlines.
  Encoder(const std::string& path, int threads) : session_(nullptr) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    session_ = Ort::Session(environment_, path.c_str(), options);
    shape_ = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    if (shape_.size() != 4 || shape_[0] != 1 || shape_[3] != 3) throw std::runtime_error(path + " takes no single frame");
  }

  std::size_t frame_bytes() const { return static_cast<std::size_t>(shape_[1] * shape_[2] * shape_[3]); }

  // n * c numbers. The frame is read in place, not copied.
  std::vector<float> operator()(std::vector<std::uint8_t>& frame) {
    if (frame.size() != frame_bytes()) throw std::runtime_error("a frame of another size");
    Ort::Value image = Ort::Value::CreateTensor<std::uint8_t>(memory_, frame.data(), frame.size(), shape_.data(), shape_.size());
    const char* inputs[] = {"image"};
    const char* outputs[] = {"tokens"};
    std::vector<Ort::Value> found = session_.Run(Ort::RunOptions{nullptr}, inputs, &image, 1, outputs, 1);
    const float* tokens = found.front().GetTensorData<float>();
    return {tokens, tokens + found.front().GetTensorTypeAndShapeInfo().GetElementCount()};
  }

 private:
  Ort::Env environment_{ORT_LOGGING_LEVEL_WARNING, "s2robot"};
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Session session_;
  std::vector<std::int64_t> shape_;
};

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: %s encoder.onnx frames.rgb tokens.f32\n", arguments[0]);
    return 2;
  }
  try {
    Encoder encoder(arguments[1], 1);
    std::ifstream frames(arguments[2], std::ios::binary);
    std::ofstream out(arguments[3], std::ios::binary);
    std::vector<std::uint8_t> frame(encoder.frame_bytes());
    std::vector<double> times_ms;
    while (frames.read(reinterpret_cast<char*>(frame.data()), static_cast<std::streamsize>(frame.size()))) {
      const auto start = std::chrono::steady_clock::now();
      const std::vector<float> tokens = encoder(frame);
      times_ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
      out.write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(tokens.size() * sizeof(float)));
    }
    if (times_ms.empty() || frames.gcount() != 0) throw std::runtime_error("frames.rgb holds no whole number of frames");
    out.close();
    if (!out) throw std::runtime_error("the tokens could not be written");
    const double sum_ms = std::accumulate(times_ms.begin(), times_ms.end(), 0.0);
    std::printf("%zu frames, %.2f ms each\n", times_ms.size(), sum_ms / static_cast<double>(times_ms.size()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
