// Every type and field of Relax that the walk reads. A TVM that renames one fails here, by name.
#ifndef TVM_COSTMODEL_RELAX_SCHEMA_H_
#define TVM_COSTMODEL_RELAX_SCHEMA_H_

#include "reflection.h"

namespace tvm_costmodel {

struct RelaxSchema {
  Type is_call{"ir.Call"};
  Type is_op{"ir.Op"};
  Type is_global_var{"ir.GlobalVar"};
  Type is_var{"ir.Var"};
  Type is_dataflow_var{"relax.expr.DataflowVar"};
  Type is_constant{"ir.GenericConst"};
  Type is_tuple{"ir.Tuple"};
  Type is_tuple_get_item{"ir.TupleGetItem"};
  Type is_if{"relax.expr.If"};
  Type is_function{"relax.expr.Function"};
  Type is_sequence{"relax.expr.SeqExpr"};
  Type is_extern{"relax.expr.ExternFunc"};
  Type is_shape{"relax.expr.ShapeExpr"};
  Type is_int{"ir.IntImm"};
  Type is_float{"ir.FloatImm"};
  Type is_string{"ir.StringImm"};
  Type is_expr{"ir.Expr"};
  Type is_array{"ffi.Array"};
  Type is_tensor_type{"relax.TensorType"};
  Type is_tuple_type{"ir.TupleType"};
  Type is_shape_type{"relax.ShapeType"};
  Type is_prim_type{"ir.PrimType"};

  Field params{"relax.expr.Function", "params"};
  Field function_body{"relax.expr.Function", "body"};
  Field blocks{"relax.expr.SeqExpr", "blocks"};
  Field sequence_body{"relax.expr.SeqExpr", "body"};
  Field bindings{"relax.expr.BindingBlock", "bindings"};
  Field bound_var{"relax.expr.Binding", "var"};
  Field bound_value{"relax.expr.VarBinding", "value"};
  Field cast_value{"relax.expr.MatchCast", "value"};
  Type is_var_binding{"relax.expr.VarBinding"};
  Field var_name{"ir.Var", "name"};
  Field global_name{"ir.GlobalVar", "name_hint"};
  Field extern_symbol{"relax.expr.ExternFunc", "global_symbol"};
  Field callee{"ir.Call", "op"};
  Field args{"ir.Call", "args"};
  Field attrs{"ir.Call", "attrs"};
  Field op_name{"ir.Op", "name"};
  Field tuple_fields{"ir.Tuple", "fields"};
  Field item_tuple{"ir.TupleGetItem", "tuple_value"};
  Field item_index{"ir.TupleGetItem", "index"};
  Field condition{"relax.expr.If", "cond"};
  Field true_branch{"relax.expr.If", "true_branch"};
  Field false_branch{"relax.expr.If", "false_branch"};
  Field extents{"relax.expr.ShapeExpr", "values"};
  Field int_value{"ir.IntImm", "value"};
  Field float_value{"ir.FloatImm", "value"};
  Field string_value{"ir.StringImm", "value"};
  Field type{"ir.Expr", "ty"};
  Field tensor_shape{"relax.TensorType", "shape"};
  Field tensor_dtype{"relax.TensorType", "dtype"};
  Field tensor_ndim{"relax.TensorType", "ndim"};
  Field tuple_types{"ir.TupleType", "fields"};
  Field shape_ndim{"relax.ShapeType", "ndim"};
  Field prim_dtype{"ir.PrimType", "dtype"};
};

// Resolved on first use, when TVM is loaded; throws AttributeError naming what TVM lacks.
const RelaxSchema& Schema();

}  // namespace tvm_costmodel

#endif  // TVM_COSTMODEL_RELAX_SCHEMA_H_
