//! The command line: a folder a noun, a file a verb.
