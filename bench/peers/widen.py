"""A GGUF file with its weights in 16 bits, so that peers that read GGUF compute with as many bits as the others.

python bench/peers/widen.py SOURCE.gguf TARGET.gguf [F16 | BF16]
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf

TO = {"F16": gguf.GGMLQuantizationType.F16, "BF16": gguf.GGMLQuantizationType.BF16}
FILE_TYPE = {"F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16}
#: What the writer writes by itself, or what was true of the source only.
OURS = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.file_type"}


def widen(source: Path, target: Path, to: str = "F16") -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    writer.add_file_type(FILE_TYPE[to])
    for name, field in reader.fields.items():
        if name not in OURS:
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, of[-1] if of else None)
    for tensor in reader.tensors:
        whole = gguf.dequantize(tensor.data, tensor.tensor_type)
        kind = TO[to] if whole.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quantize(whole, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    widen(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
