"""Passes from OpGraph to OpGraph: twins of the compiler's passes, for graphs to be predicted.

Each file mirrors the one of its name in ``compilers/relax/passes/`` and needs no TVM.
"""
