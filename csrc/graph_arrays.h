// The arrays that a walk fills; tvm_costmodel/frontends/graph_arrays.py describes each column.
#ifndef TVM_COSTMODEL_GRAPH_ARRAYS_H_
#define TVM_COSTMODEL_GRAPH_ARRAYS_H_

#include <tvm/ffi/container/map.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace tvm_costmodel {

namespace ffi = tvm::ffi;

enum TokenKind : int32_t { kNone = 0, kInt, kBool, kFloat, kString, kTuple };

constexpr int32_t kWeight = -1;

// Version of the arrays and their content. Raise it together with WALK_VERSION in
// tvm_costmodel/frontends/graph_arrays.py, so that a library from before the change is not used.
constexpr int64_t kWalkVersion = 1;

// One token of an attribute's value. A string's word is an index into `Literal::texts`.
struct Token {
  int32_t kind;
  int64_t word;
};

// A value known while walking: number, string, or tuple of those.
struct Literal {
  std::vector<Token> tokens;
  std::vector<std::string> texts;

  void AddInt(int64_t value) { tokens.push_back({kInt, value}); }
  void AddFloat(double value);
  void AddText(std::string text);
  void Append(const Literal& other);
};

// An operand: an operator's output, or (kWeight, type id).
struct Leaf {
  int32_t producer;
  int32_t index;
  bool operator==(const Leaf& other) const {
    return producer == other.producer && index == other.index;
  }
};

// Attributes of one operator, in order.
struct Attributes {
  std::vector<std::string> keys;
  std::vector<size_t> ends;  // by key: where its tokens end
  Literal values;

  void Add(std::string key, const Literal& value);
  // For values that the caller appends to `values` itself.
  void Close(std::string key);
  void Clear();
};

class GraphArrays {
 public:
  GraphArrays();

  // Id that the next operator gets.
  int32_t count() const { return static_cast<int32_t>(names_.size()); }
  int32_t Type(const std::string& dtype, const std::vector<int64_t>& shape);
  void AddOperator(const std::string& op, const std::vector<Leaf>& operands,
                   const std::vector<int32_t>& outputs, const Attributes& attrs, std::string name);
  void SetResults(const std::vector<Leaf>& leaves);
  // Column name -> tensor; "strings" and "names" -> one string, items closed by '\0'.
  ffi::Map<ffi::String, ffi::Any> Finish() const;

 private:
  int32_t Intern(const std::string& text);

  std::string type_key_;  // kept between calls for its memory
  std::unordered_map<std::string, int32_t> string_ids_;
  std::unordered_map<std::string, int32_t> type_ids_;
  std::vector<std::string> strings_, names_;
  std::vector<int32_t> op_, operand_, operand_start_{0}, output_, output_start_{0};
  std::vector<int32_t> attr_key_, attr_start_{0}, value_start_{0}, value_kind_;
  std::vector<int64_t> value_;
  std::vector<int32_t> type_dtype_, dim_start_{0}, result_;
  std::vector<int64_t> dim_;
};

}  // namespace tvm_costmodel

#endif  // TVM_COSTMODEL_GRAPH_ARRAYS_H_
