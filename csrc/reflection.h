// Reading TVM's objects by type key and field name through tvm-ffi's reflection.
#ifndef TVM_COSTMODEL_REFLECTION_H_
#define TVM_COSTMODEL_REFLECTION_H_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/reflection/accessor.h>
#include <tvm/ffi/tvm_ffi.h>

#include <string>
#include <vector>

namespace tvm_costmodel {

namespace ffi = tvm::ffi;

// An object that someone else keeps alive: here always the function that is being walked, which
// owns everything below it. Borrowing spares two atomic operations per step.
using Node = const ffi::Object*;

// The object in a slot; null where it holds None or a number.
inline Node NodeOf(const ffi::Any& value) { return value.as<ffi::Object>(); }

// The objects in an ffi.Array, borrowed.
class Nodes {
 public:
  explicit Nodes(Node array) : array_(static_cast<const ffi::ArrayObj*>(array)) {}

  class Iterator {
   public:
    explicit Iterator(const ffi::Any* at) : at_(at) {}
    Node operator*() const { return NodeOf(*at_); }
    Iterator& operator++() { return ++at_, *this; }
    bool operator!=(const Iterator& other) const { return at_ != other.at_; }

   private:
    const ffi::Any* at_;
  };
  Iterator begin() const { return Iterator(array_->begin()); }
  Iterator end() const { return Iterator(array_->end()); }
  size_t size() const { return array_->size(); }

 private:
  const ffi::ArrayObj* array_;
};

// A type of the installed TVM. Throws AttributeError that names the key where TVM has no such type.
class Type {
 public:
  explicit Type(const char* key);

  // Exact match.
  bool operator()(Node object) const { return object && object->type_index() == index_; }
  // Match with any type that derives from this one.
  bool IsAncestorOf(Node object) const;

 private:
  int32_t index_;
};

// One field of a type, found once by name; reads objects of that type and of those derived from it.
// Throws AttributeError that names both where the type has no such field.
class Field {
 public:
  Field(const char* key, const char* name);

  ffi::Any Read(Node object) const { return Read(object, field_); }
  // A field that holds an object; null where it holds None.
  Node Object(Node object) const {
    if (!is_pointer_) return NodeOf(Read(object));
    return *reinterpret_cast<const Node*>(reinterpret_cast<const char*>(object) + field_->offset);
  }
  // A field that holds an array.
  Nodes Array(Node object) const { return Nodes(Object(object)); }
  ffi::String String(Node object) const { return Read(object).cast<ffi::String>(); }
  int64_t Int(Node object) const { return Read(object).cast<int64_t>(); }

  static ffi::Any Read(Node object, const TVMFFIFieldInfo* field);

 private:
  const TVMFFIFieldInfo* field_;
  bool is_pointer_;  // the slot is a plain reference, which can be read in place
};

// Reflected fields of an object in declaration order, looked up once per type.
struct NamedField {
  std::string name;
  const TVMFFIFieldInfo* field;
};
const std::vector<NamedField>& FieldsOf(Node object);

// Name of an element type, as "float32".
const std::string& NameOf(DLDataType dtype);

}  // namespace tvm_costmodel

#endif  // TVM_COSTMODEL_REFLECTION_H_
