#include "relax_walk.h"

#include <tvm/ffi/container/array.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "graph_arrays.h"
#include "relax_schema.h"

namespace tvm_costmodel {

namespace {

using ffi::Any;

// The value of an expression. Leaves, the common case, need no memory of their own.
struct Value {
  enum class Kind { kLeaf, kLiteral, kAggregate, kFunction };
  struct Body {
    Literal literal;             // kLiteral; kFunction: its name
    std::vector<Value> fields;   // kAggregate
    std::vector<Leaf> captured;  // kFunction: what it reads of the function around it
  };

  Kind kind = Kind::kLeaf;
  Leaf leaf{kWeight, 0};
  std::shared_ptr<const Body> body;

  static Value Of(Leaf leaf) { return {Kind::kLeaf, leaf, nullptr}; }
  static Value Of(Literal literal) {
    return {Kind::kLiteral, {}, std::make_shared<const Body>(Body{std::move(literal), {}, {}})};
  }
  static Value Of(std::vector<Value> fields) {
    return {Kind::kAggregate, {}, std::make_shared<const Body>(Body{{}, std::move(fields), {}})};
  }
  static Value OfFunction(Literal name, std::vector<Leaf> captured) {
    return {Kind::kFunction,
            {},
            std::make_shared<const Body>(Body{std::move(name), {}, std::move(captured)})};
  }
};

const std::string kUnknown = "unknown";

Literal UnknownExtent() {
  Literal literal;
  literal.AddInt(-1);
  return literal;
}

bool IsLiteral(const Value& value) {
  if (value.kind == Value::Kind::kAggregate) {
    return std::all_of(value.body->fields.begin(), value.body->fields.end(), IsLiteral);
  }
  return value.kind == Value::Kind::kLiteral;
}

void AppendPlain(const Value& value, Literal* out) {
  if (value.kind != Value::Kind::kAggregate) return out->Append(value.body->literal);
  out->tokens.push_back({kTuple, static_cast<int64_t>(value.body->fields.size())});
  for (const Value& field : value.body->fields) AppendPlain(field, out);
}

void Flatten(const Value& value, std::vector<Leaf>* leaves) {
  switch (value.kind) {
    case Value::Kind::kLeaf:
      leaves->push_back(value.leaf);
      break;
    case Value::Kind::kFunction:
      leaves->insert(leaves->end(), value.body->captured.begin(), value.body->captured.end());
      break;
    case Value::Kind::kAggregate:
      for (const Value& field : value.body->fields) Flatten(field, leaves);
      break;
    case Value::Kind::kLiteral:
      break;
  }
}

// Operands and attributes of one operator.
struct Arguments {
  std::vector<Leaf> operands;
  Attributes attrs;

  void Clear() {
    operands.clear();
    attrs.Clear();
  }

  void File(const Value& value, const std::string& key) {
    switch (value.kind) {
      case Value::Kind::kLeaf:
        operands.push_back(value.leaf);
        return;
      case Value::Kind::kLiteral:
        attrs.Add(key, value.body->literal);
        return;
      case Value::Kind::kFunction:
        attrs.Add(key, value.body->literal);
        Flatten(value, &operands);
        return;
      case Value::Kind::kAggregate:
        break;
    }
    if (IsLiteral(value)) {
      AppendPlain(value, &attrs.values);
      attrs.Close(key);
      return;
    }
    for (size_t i = 0; i < value.body->fields.size(); ++i) {
      File(value.body->fields[i], key + "." + std::to_string(i));
    }
  }
};

class Walker {
 public:
  Walker() { values_.reserve(512); }

  ffi::Map<ffi::String, Any> Run(Node function, int64_t inputs) {
    for (Node param : s_.params.Array(function)) {
      const Node type = s_.type.Object(param);
      std::vector<int32_t> outputs;
      const bool is_input = inputs-- > 0;
      Value value = Unfold(type, is_input ? arrays_.count() : kWeight, &outputs);
      if (is_input) arrays_.AddOperator("input", {}, outputs, {}, s_.var_name.String(param));
      values_[param] = std::move(value);
    }
    std::vector<Leaf> results;
    Flatten(Sequence(s_.function_body.Object(function)), &results);
    arrays_.SetResults(results);
    return arrays_.Finish();
  }

 private:
  Value Sequence(Node sequence) {
    for (Node block : s_.blocks.Array(sequence)) {
      for (Node binding : s_.bindings.Array(block)) {
        const Node var = s_.bound_var.Object(binding);
        Value value = Evaluate(BoundValue(binding), s_.var_name.String(var));
        values_[var] = std::move(value);
      }
    }
    return Evaluate(s_.sequence_body.Object(sequence), "");
  }

  Node BoundValue(Node binding) const {
    return (s_.is_var_binding(binding) ? s_.bound_value : s_.cast_value).Object(binding);
  }

  Value Evaluate(Node expr, std::string name) {
    if (s_.is_call(expr)) return Call(expr, std::move(name));
    if (s_.is_dataflow_var(expr) || s_.is_var(expr)) {
      auto known = values_.find(expr);
      return known == values_.end() ? Value::Of(UnknownExtent()) : known->second;
    }
    if (s_.is_constant(expr)) return Value::Of(Leaf{kWeight, TypeId(s_.type.Object(expr))});
    if (s_.is_tuple(expr)) {
      std::vector<Value> fields;
      for (Node field : s_.tuple_fields.Array(expr)) {
        fields.push_back(Evaluate(field, ""));
      }
      return Value::Of(std::move(fields));
    }
    if (s_.is_tuple_get_item(expr)) {
      Value value = Evaluate(s_.item_tuple.Object(expr), "");
      if (value.kind != Value::Kind::kAggregate) return value;
      return value.body->fields.at(s_.item_index.Int(expr));
    }
    if (s_.is_if(expr)) return Branch(expr, std::move(name));
    if (s_.is_function(expr)) {
      std::vector<Leaf> captured;
      Capture(expr, &captured);
      Literal literal;
      literal.AddText(std::move(name));
      return Value::OfFunction(std::move(literal), std::move(captured));
    }
    if (s_.is_sequence(expr)) return Sequence(expr);
    Literal literal;
    AppendObject(expr, &literal);
    return Value::Of(std::move(literal));
  }

  // The value of an attribute, an extent or a callee.
  void AppendLiteral(const Any& value, Literal* out) const {
    switch (value.type_index()) {
      case ffi::TypeIndex::kTVMFFINone:
        out->tokens.push_back({kNone, 0});
        return;
      case ffi::TypeIndex::kTVMFFIBool:
        out->tokens.push_back({kBool, value.cast<bool>()});
        return;
      case ffi::TypeIndex::kTVMFFIInt:
        out->AddInt(value.cast<int64_t>());
        return;
      case ffi::TypeIndex::kTVMFFIFloat:
        out->AddFloat(value.cast<double>());
        return;
      case ffi::TypeIndex::kTVMFFIDataType:
        out->AddText(NameOf(value.cast<DLDataType>()));
        return;
      case ffi::TypeIndex::kTVMFFISmallStr:
      case ffi::TypeIndex::kTVMFFIStr:
        out->AddText(value.cast<std::string>());
        return;
      default:
        break;
    }
    if (value.type_index() < ffi::TypeIndex::kTVMFFIStaticObjectBegin) return out->AddText("object");
    AppendObject(NodeOf(value), out);
  }

  void AppendObject(Node object, Literal* out) const {
    if (s_.is_int(object)) return out->AddInt(s_.int_value.Int(object));
    if (s_.is_array(object)) return AppendItems(object, out);
    if (s_.is_float(object)) return out->AddFloat(s_.float_value.Read(object).cast<double>());
    if (s_.is_string(object)) return out->AddText(s_.string_value.String(object));
    if (s_.is_shape(object)) return AppendItems(s_.extents.Object(object), out);
    if (s_.is_prim_type(object)) return out->AddText(DType(object));
    if (s_.is_global_var(object)) return out->AddText(s_.global_name.String(object));
    if (s_.is_extern(object)) return out->AddText(s_.extern_symbol.String(object));
    if (s_.is_expr.IsAncestorOf(object)) return out->AddInt(-1);  // an extent known at run time only
    out->AddText("object");
  }

  void AppendItems(Node array, Literal* out) const {
    const auto* items = static_cast<const ffi::ArrayObj*>(array);
    out->tokens.push_back({kTuple, static_cast<int64_t>(items->size())});
    for (const Any& item : *items) AppendLiteral(item, out);
  }

  Value Call(Node call, std::string name) {
    Arguments arguments = std::move(spare_);
    arguments.Clear();
    const std::string& op = Callee(s_.callee.Object(call), &arguments);
    int position = 0;
    for (Node arg : s_.args.Array(call)) {
      arguments.File(Evaluate(arg, ""), "arg" + std::to_string(position++));
    }
    const Node attrs = s_.attrs.Object(call);
    if (attrs != nullptr) {
      for (const NamedField& field : FieldsOf(attrs)) {
        if (field.name == "__dict__") continue;
        AppendLiteral(Field::Read(attrs, field.field), &arguments.attrs.values);
        arguments.attrs.Close(field.name);
      }
    }
    Value value = Append(op, arguments, s_.type.Object(call), std::move(name));
    spare_ = std::move(arguments);
    return value;
  }

  const std::string& Callee(Node callee, Arguments* arguments) {
    static const std::string call = "call", call_packed = "call_packed";
    if (s_.is_op(callee)) {
      auto [known, is_new] = op_names_.try_emplace(callee);
      if (is_new) known->second = s_.op_name.String(callee);
      return known->second;
    }
    arguments->File(Evaluate(callee, ""), "callee");
    return s_.is_extern(callee) ? call_packed : call;
  }

  // An `if` is one opaque operator that reads its condition and all that it captures.
  Value Branch(Node branch, std::string name) {
    Arguments arguments;
    arguments.File(Evaluate(s_.condition.Object(branch), ""), "cond");
    std::vector<Leaf> captured;
    Capture(s_.true_branch.Object(branch), &captured);
    Capture(s_.false_branch.Object(branch), &captured);
    arguments.operands.insert(arguments.operands.end(), captured.begin(), captured.end());
    return Append("if", arguments, s_.type.Object(branch), std::move(name));
  }

  // Collects the values of this function that an expression of an inner one reads.
  void Capture(Node expr, std::vector<Leaf>* found) const {
    if (s_.is_dataflow_var(expr) || s_.is_var(expr)) {
      auto known = values_.find(expr);
      std::vector<Leaf> leaves;
      if (known != values_.end()) Flatten(known->second, &leaves);
      for (const Leaf& leaf : leaves) {
        if (std::find(found->begin(), found->end(), leaf) == found->end()) found->push_back(leaf);
      }
    } else if (s_.is_call(expr)) {
      Capture(s_.callee.Object(expr), found);
      for (Node arg : s_.args.Array(expr)) Capture(arg, found);
    } else if (s_.is_tuple(expr)) {
      for (Node field : s_.tuple_fields.Array(expr)) Capture(field, found);
    } else if (s_.is_tuple_get_item(expr)) {
      Capture(s_.item_tuple.Object(expr), found);
    } else if (s_.is_if(expr)) {
      Capture(s_.condition.Object(expr), found);
      Capture(s_.true_branch.Object(expr), found);
      Capture(s_.false_branch.Object(expr), found);
    } else if (s_.is_function(expr)) {
      Capture(s_.function_body.Object(expr), found);
    } else if (s_.is_sequence(expr)) {
      for (Node block : s_.blocks.Array(expr)) {
        for (Node binding : s_.bindings.Array(block)) {
          Capture(BoundValue(binding), found);
        }
      }
      Capture(s_.sequence_body.Object(expr), found);
    }
  }

  Value Append(const std::string& op, const Arguments& arguments, Node type,
               std::string name) {
    std::vector<int32_t> outputs;
    Value value = Unfold(type, arrays_.count(), &outputs);
    arrays_.AddOperator(op, arguments.operands, outputs, arguments.attrs, std::move(name));
    return value;
  }

  // The value of a type, its tensors numbered depth first.
  Value Unfold(Node type, int32_t producer, std::vector<int32_t>* outputs) {
    if (s_.is_tuple_type(type)) {
      std::vector<Value> fields;
      for (Node item : s_.tuple_types.Array(type)) {
        fields.push_back(Unfold(item, producer, outputs));
      }
      return Value::Of(std::move(fields));
    }
    outputs->push_back(TypeId(type));
    const int32_t position = static_cast<int32_t>(outputs->size()) - 1;
    return Value::Of(Leaf{producer, producer == kWeight ? outputs->back() : position});
  }

  int32_t TypeId(Node type) {
    if (s_.is_tensor_type(type)) {
      const Node shape = s_.tensor_shape.Object(type);
      std::vector<int64_t>& extents = spare_extents_;
      extents.clear();
      if (s_.is_shape(shape)) {
        for (Node extent : s_.extents.Array(shape)) {
          extents.push_back(s_.is_int(extent) ? s_.int_value.Int(extent) : -1);
        }
      } else {
        extents.assign(std::abs(s_.tensor_ndim.Int(type)), -1);  // unknown rank (-1): one extent
      }
      const Node dtype = s_.tensor_dtype.Object(type);
      return arrays_.Type(dtype ? DType(dtype) : kUnknown, extents);
    }
    if (s_.is_shape_type(type)) return arrays_.Type("shape", {s_.shape_ndim.Int(type)});
    if (s_.is_prim_type(type)) return arrays_.Type(DType(type), {});
    return arrays_.Type("object", {});
  }

  const std::string& DType(Node prim_type) const {
    return NameOf(s_.prim_dtype.Read(prim_type).cast<DLDataType>());
  }

  const RelaxSchema& s_ = Schema();
  GraphArrays arrays_;
  std::unordered_map<Node, Value> values_;  // by variable
  std::unordered_map<Node, std::string> op_names_;
  // Kept between calls for their memory.
  Arguments spare_;
  std::vector<int64_t> spare_extents_;
};

}  // namespace

ffi::Map<ffi::String, Any> WalkRelax(ffi::ObjectRef function, int64_t inputs) {
  if (!Schema().is_function(function.get())) {
    TVM_FFI_THROW(TypeError) << "expected a relax.Function, got "
                             << (function.defined() ? function->GetTypeKey() : "None");
  }
  return Walker().Run(function.get(), inputs);
}

}  // namespace tvm_costmodel
