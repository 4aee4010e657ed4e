// Runs model.so with TVM's runtime: main [INPUT.bin ...], raw values of each input; zeros without.
//
//   P=$(python -c "import tvm, pathlib; print(pathlib.Path(tvm.__file__).parent.parent)")
//   g++ -std=c++17 -O1 main.cc -o main -I$P/tvm/include -I$P/tvm_ffi/include \
//     -Wl,--no-as-needed $P/tvm/lib/libtvm_runtime.so $P/tvm_ffi/lib/libtvm_ffi.so \
//     -Wl,-rpath,$P/tvm/lib:$P/tvm_ffi/lib
#include <sys/utsname.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

using namespace tvm::ffi;

struct Memory {
  void AllocData(DLTensor* tensor) {
    size_t bytes = (GetDataSize(*tensor) + 64) / 64 * 64;
    tensor->data = std::memset(std::aligned_alloc(64, bytes), 0, bytes);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// What this processor lacks of what the library is made of; empty where it can run it.
std::string Lacking(const json::Object& needs) {
  utsname system;
  uname(&system);
  std::string machine = needs["machine"].cast<String>(), lacking;
  if (machine != system.machine) return " " + machine + " instructions";
  std::ifstream cpuinfo("/proc/cpuinfo");
  if (!cpuinfo) return "";
  std::istream_iterator<std::string> words(cpuinfo), end;
  std::set<std::string> offered(words, end);
  for (const Any& feature : needs["features"].cast<json::Array>()) {
    std::string name = feature.cast<String>();
    if (!offered.count(name)) lacking += " " + name;
  }
  return lacking;
}

Tensor Input(const json::Array& spec, const char* path) {
  std::vector<int64_t> shape;
  for (const Any& extent : spec[0].cast<json::Array>()) shape.push_back(extent.cast<int64_t>());
  DLDataType dtype = StringToDLDataType(spec[1].cast<String>());
  Tensor input = Tensor::FromNDAlloc(Memory(), Shape(shape), dtype, DLDevice{kDLCPU, 0});
  if (path == nullptr) return input;
  std::string values = Read(path);
  size_t bytes = GetDataSize(input);
  if (values.size() != bytes) {
    throw std::runtime_error(std::string(path) + " has " + std::to_string(values.size()) +
                             " bytes, not " + std::to_string(bytes));
  }
  std::memcpy(input.data_ptr(), values.data(), bytes);
  return input;
}

void Print(const Any& result) {
  if (auto fields = result.as<Array<Any>>()) {
    for (const Any& field : *fields) Print(field);
    return;
  }
  Tensor output = result.cast<Tensor>();
  std::cout << "output: " << DLDataTypeToString(output.dtype()) << " " << output.shape();
  if (output.dtype().code == kDLFloat && output.dtype().bits == 32) {
    std::cout << ", first";
    for (int64_t i = 0; i < std::min<int64_t>(4, output.numel()); ++i) {
      std::cout << " " << static_cast<const float*>(output.data_ptr())[i];
    }
  }
  std::cout << std::endl;
}

int Run(const std::string& folder, int count, char** paths) {
  auto needs = json::Parse(Read(folder + "requires.json")).cast<json::Object>();
  if (std::string lacking = Lacking(needs); !lacking.empty()) {
    std::cerr << "error: model.so is for " << needs["mcpu"].cast<String>()
              << ", and this processor lacks" << lacking
              << "; tune the model again on a processor like this one" << std::endl;
    return 2;
  }
  setenv("TVM_NUM_THREADS", std::to_string(needs["threads"].cast<int64_t>()).c_str(), 0);
  auto specs = needs["inputs"].cast<json::Array>();
  if (count != 0 && count != static_cast<int>(specs.size())) {
    throw std::runtime_error("give a file for each of " + std::to_string(specs.size()) + " inputs");
  }
  std::vector<Tensor> inputs;
  for (const Any& spec : specs) {
    const char* path = count == 0 ? nullptr : paths[inputs.size()];
    inputs.push_back(Input(spec.cast<json::Array>(), path));
  }
  Module library = Module::LoadFromFile(folder + "model.so");
  auto machine = library->GetFunction("vm_load_executable").value()().cast<Module>();
  machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, 2);  // 2: a pool
  Function network = machine->GetFunction("main").value();
  std::vector<AnyView> arguments(inputs.begin(), inputs.end());
  Any result;
  network.CallPacked(arguments.data(), arguments.size(), &result);
  std::chrono::duration<double, std::milli> fastest(1e9);
  for (int i = 0; i < 10; ++i) {
    auto start = std::chrono::steady_clock::now();
    network.CallPacked(arguments.data(), arguments.size(), &result);
    fastest = std::min<decltype(fastest)>(fastest, std::chrono::steady_clock::now() - start);
  }
  std::cout << fastest.count() << " ms, the fastest of ten runs" << std::endl;
  Print(result);
  return 0;
}

int main(int argc, char** argv) {
  std::string program = argv[0];
  try {
    return Run(program.substr(0, program.find_last_of('/') + 1), argc - 1, argv + 1);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
