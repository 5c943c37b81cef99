"""Read files of rows, in any encoding, packing and format, as tables of raw columns.

These files know bytes, separators and shards. They do not know which column is what, nor labels.
"""
