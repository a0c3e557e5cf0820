#!/usr/bin/env python3
"""embed.py FILE NAME OUT.c: the bytes of a file as `const unsigned char NAME[]` and `const size_t NAME_bytes`."""
import pathlib
import sys

data = pathlib.Path(sys.argv[1]).read_bytes()
name = sys.argv[2]
rows = [", ".join(map(str, data[i:i + 24])) for i in range(0, len(data), 24)]
pathlib.Path(sys.argv[3]).write_text(
    f"#include <stddef.h>\nextern const unsigned char {name}[];\nextern const size_t {name}_bytes;\n"
    f"const unsigned char {name}[] = {{\n" + ",\n".join(rows) + f"}};\nconst size_t {name}_bytes = sizeof {name};\n")
