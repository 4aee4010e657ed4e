#include "reflection.h"

#include <cstring>
#include <string_view>
#include <unordered_map>

namespace tvm_costmodel {

namespace {

const TVMFFITypeInfo* FindType(const char* key) {
  TVMFFIByteArray bytes{key, std::strlen(key)};
  int32_t index = 0;
  if (TVMFFITypeKeyToIndex(&bytes, &index) != 0) {
    TVMFFIObjectHandle error = nullptr;
    TVMFFIErrorMoveFromRaised(&error);
    if (error != nullptr) TVMFFIObjectDecRef(error);
    TVM_FFI_THROW(AttributeError) << "the installed TVM has no type `" << key << "`";
  }
  return TVMFFIGetTypeInfo(index);
}

}  // namespace

Type::Type(const char* key) : index_(FindType(key)->type_index) {}

bool Type::IsAncestorOf(Node object) const {
  if (object == nullptr) return false;
  if (object->type_index() == index_) return true;
  const TVMFFITypeInfo* type = TVMFFIGetTypeInfo(object->type_index());
  for (int32_t depth = 0; depth < type->type_depth; ++depth) {
    if (type->type_ancestors[depth]->type_index == index_) return true;
  }
  return false;
}

Field::Field(const char* key, const char* name) : field_(nullptr), is_pointer_(false) {
  ffi::reflection::ForEachFieldInfo(FindType(key), [&](const TVMFFIFieldInfo* field) {
    if (std::string_view(field->name.data, field->name.size) == name) field_ = field;
  });
  if (field_ == nullptr) {
    TVM_FFI_THROW(AttributeError)
        << "the installed TVM's type `" << key << "` has no field `" << name << "`";
  }
  is_pointer_ = field_->field_static_type_index >= ffi::TypeIndex::kTVMFFIStaticObjectBegin &&
                field_->size == sizeof(Node);
}

ffi::Any Field::Read(Node object, const TVMFFIFieldInfo* field) {
  ffi::Any value;
  char* address = const_cast<char*>(reinterpret_cast<const char*>(object)) + field->offset;
  TVM_FFI_CHECK_SAFE_CALL(field->getter(address, reinterpret_cast<TVMFFIAny*>(&value)));
  return value;
}

const std::vector<NamedField>& FieldsOf(Node object) {
  static thread_local std::unordered_map<int32_t, std::vector<NamedField>> known;
  auto [entry, is_new] = known.try_emplace(object->type_index());
  if (is_new) {
    ffi::reflection::ForEachFieldInfo(
        TVMFFIGetTypeInfo(object->type_index()), [&](const TVMFFIFieldInfo* field) {
          entry->second.push_back({std::string(field->name.data, field->name.size), field});
        });
  }
  return entry->second;
}

const std::string& NameOf(DLDataType dtype) {
  static thread_local std::unordered_map<uint32_t, std::string> known;
  uint32_t key = 0;
  static_assert(sizeof(key) == sizeof(dtype));
  std::memcpy(&key, &dtype, sizeof(key));
  auto [entry, is_new] = known.try_emplace(key);
  if (is_new) entry->second = ffi::DLDataTypeToString(dtype);
  return entry->second;
}

}  // namespace tvm_costmodel
