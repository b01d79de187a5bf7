"""Tables: classification and regression on CSV or Parquet files, in PyTorch."""
