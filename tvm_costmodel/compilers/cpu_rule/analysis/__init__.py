"""Analysis of PrimFuncs: the facts that schedule templates match on."""
