"""Data sets of the Hugging Face hub: their files, read over the network or kept in a bounded cache.

`datasets` resolves a data set's configurations, splits and file patterns; its streaming is not used: files are read
here by ranges of bytes, since a resume must find the very row group that it needs without those before it.
"""
