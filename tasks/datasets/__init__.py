"""Data sets by name, one a file; loaded by reference where a site or a use case names one."""
