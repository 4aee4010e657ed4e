#include "graph_arrays.h"

#include <tvm/ffi/container/tensor.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace tvm_costmodel {

namespace {

struct HostMemory {
  void AllocData(DLTensor* tensor) {
    tensor->data = std::malloc(ffi::GetDataSize(*tensor) + 1);  // never malloc(0)
    if (tensor->data == nullptr) TVM_FFI_THROW(MemoryError) << "no memory for the graph's arrays";
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

template <typename T>
ffi::Tensor ToTensor(const std::vector<T>& column, std::vector<int64_t> shape) {
  DLDataType dtype{kDLInt, 8 * sizeof(T), 1};
  ffi::Tensor tensor = ffi::Tensor::FromNDAlloc(
      HostMemory(), ffi::ShapeView(shape.data(), shape.size()), dtype, DLDevice{kDLCPU, 0});
  if (!column.empty()) std::memcpy(tensor.data_ptr(), column.data(), column.size() * sizeof(T));
  return tensor;
}

template <typename T>
ffi::Tensor ToTensor(const std::vector<T>& column) {
  return ToTensor(column, {static_cast<int64_t>(column.size())});
}

ffi::Tensor ToPairs(const std::vector<int32_t>& column) {
  return ToTensor(column, {static_cast<int64_t>(column.size() / 2), 2});
}

ffi::String Join(const std::vector<std::string>& items) {
  std::string joined;
  for (const std::string& item : items) joined.append(item).push_back('\0');
  return ffi::String(std::move(joined));
}

}  // namespace

void Literal::AddFloat(double value) {
  int64_t bits = 0;
  static_assert(sizeof(bits) == sizeof(value));
  std::memcpy(&bits, &value, sizeof(bits));
  tokens.push_back({kFloat, bits});
}

void Literal::AddText(std::string text) {
  tokens.push_back({kString, static_cast<int64_t>(texts.size())});
  texts.push_back(std::move(text));
}

void Literal::Append(const Literal& other) {
  const int64_t shift = static_cast<int64_t>(texts.size());
  for (const Token& token : other.tokens) {
    tokens.push_back({token.kind, token.kind == kString ? token.word + shift : token.word});
  }
  texts.insert(texts.end(), other.texts.begin(), other.texts.end());
}

void Attributes::Add(std::string key, const Literal& value) {
  values.Append(value);
  Close(std::move(key));
}

void Attributes::Close(std::string key) {
  keys.push_back(std::move(key));
  ends.push_back(values.tokens.size());
}

void Attributes::Clear() {
  keys.clear();
  ends.clear();
  values.tokens.clear();
  values.texts.clear();
}

GraphArrays::GraphArrays() {
  constexpr size_t kOperators = 256;  // enough for most networks without growing
  names_.reserve(kOperators);
  for (auto* column : {&op_, &operand_start_, &output_, &output_start_, &attr_start_}) {
    column->reserve(kOperators);
  }
  for (auto* column : {&operand_, &attr_key_, &value_start_, &value_kind_}) {
    column->reserve(8 * kOperators);
  }
  value_.reserve(8 * kOperators);
  string_ids_.reserve(kOperators);
  type_ids_.reserve(kOperators);
}

int32_t GraphArrays::Intern(const std::string& text) {
  if (auto known = string_ids_.find(text); known != string_ids_.end()) return known->second;
  strings_.push_back(text);
  return string_ids_[text] = static_cast<int32_t>(strings_.size()) - 1;
}

int32_t GraphArrays::Type(const std::string& dtype, const std::vector<int64_t>& shape) {
  const int32_t dtype_id = Intern(dtype);
  type_key_.assign(reinterpret_cast<const char*>(&dtype_id), sizeof(dtype_id));
  type_key_.append(reinterpret_cast<const char*>(shape.data()), shape.size() * sizeof(int64_t));
  if (auto known = type_ids_.find(type_key_); known != type_ids_.end()) return known->second;
  type_dtype_.push_back(dtype_id);
  dim_.insert(dim_.end(), shape.begin(), shape.end());
  dim_start_.push_back(static_cast<int32_t>(dim_.size()));
  return type_ids_[type_key_] = static_cast<int32_t>(type_dtype_.size()) - 1;
}

void GraphArrays::AddOperator(const std::string& op, const std::vector<Leaf>& operands,
                              const std::vector<int32_t>& outputs, const Attributes& attrs,
                              std::string name) {
  op_.push_back(Intern(op));
  for (const Leaf& leaf : operands) {
    operand_.push_back(leaf.producer);
    operand_.push_back(leaf.index);
  }
  operand_start_.push_back(static_cast<int32_t>(operand_.size() / 2));
  output_.insert(output_.end(), outputs.begin(), outputs.end());
  output_start_.push_back(static_cast<int32_t>(output_.size()));
  size_t at = 0;
  for (size_t k = 0; k < attrs.keys.size(); ++k) {
    attr_key_.push_back(Intern(attrs.keys[k]));
    for (; at < attrs.ends[k]; ++at) {
      const Token& token = attrs.values.tokens[at];
      value_kind_.push_back(token.kind);
      value_.push_back(token.kind == kString ? Intern(attrs.values.texts[token.word])
                                             : token.word);
    }
    value_start_.push_back(static_cast<int32_t>(value_.size()));
  }
  attr_start_.push_back(static_cast<int32_t>(attr_key_.size()));
  names_.push_back(std::move(name));
}

void GraphArrays::SetResults(const std::vector<Leaf>& leaves) {
  for (const Leaf& leaf : leaves) {
    result_.push_back(leaf.producer);
    result_.push_back(leaf.index);
  }
}

ffi::Map<ffi::String, ffi::Any> GraphArrays::Finish() const {
  return {
      {"strings", Join(strings_)},
      {"names", Join(names_)},
      {"op", ToTensor(op_)},
      {"operand_start", ToTensor(operand_start_)},
      {"operand", ToPairs(operand_)},
      {"output_start", ToTensor(output_start_)},
      {"output", ToTensor(output_)},
      {"attr_start", ToTensor(attr_start_)},
      {"attr_key", ToTensor(attr_key_)},
      {"value_start", ToTensor(value_start_)},
      {"value_kind", ToTensor(value_kind_)},
      {"value", ToTensor(value_)},
      {"type_dtype", ToTensor(type_dtype_)},
      {"dim_start", ToTensor(dim_start_)},
      {"dim", ToTensor(dim_)},
      {"result", ToPairs(result_)},
  };
}

}  // namespace tvm_costmodel
