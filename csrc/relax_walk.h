// The walk over a Relax function; tvm_costmodel/frontends/relax/walk.py is its twin.
#ifndef TVM_COSTMODEL_RELAX_WALK_H_
#define TVM_COSTMODEL_RELAX_WALK_H_

#include <tvm/ffi/container/map.h>
#include <tvm/ffi/tvm_ffi.h>

namespace tvm_costmodel {

// Walks a relax.Function whose first `inputs` parameters are the network's inputs, the others its
// weights. Returns GraphArrays::Finish().
tvm::ffi::Map<tvm::ffi::String, tvm::ffi::Any> WalkRelax(tvm::ffi::ObjectRef function,
                                                         int64_t inputs);

}  // namespace tvm_costmodel

#endif  // TVM_COSTMODEL_RELAX_WALK_H_
