// What Python loads: tvm_ffi.load_module("_native.so").walk_relax(function, inputs).
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/tvm_ffi.h>

#include <string>

#include "graph_arrays.h"
#include "relax_schema.h"
#include "relax_walk.h"

namespace tvm_costmodel {

int64_t WalkVersion() { return kWalkVersion; }

// Raises AttributeError, naming it, unless the installed TVM has everything that the walk reads.
void CheckSchema() { Schema(); }

// Raises AttributeError unless the installed TVM has a type with such a field.
void CheckField(std::string type_key, std::string field) {
  Field(type_key.c_str(), field.c_str());
}

}  // namespace tvm_costmodel

TVM_FFI_DLL_EXPORT_TYPED_FUNC(walk_relax, tvm_costmodel::WalkRelax);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(walk_version, tvm_costmodel::WalkVersion);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(check_schema, tvm_costmodel::CheckSchema);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(check_field, tvm_costmodel::CheckField);
