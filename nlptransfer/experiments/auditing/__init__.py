"""Answer the questions of an audit, one a file: each looks at the rows of a data set and returns a section.

These files know rows, features and probabilities. They do not know folders, nor what is done with a section.
"""
