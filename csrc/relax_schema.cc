#include "relax_schema.h"

namespace tvm_costmodel {

const RelaxSchema& Schema() {
  static const RelaxSchema schema;
  return schema;
}

}  // namespace tvm_costmodel
