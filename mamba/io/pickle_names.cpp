#include "mamba/io/pickle_names.h"

#include <fmt/format.h>

#include "mamba/io/dtype.h"

namespace mamba::io {
namespace {

using Role = PickleGlobal::Role;

struct Function {
  std::string_view module;
  std::string_view name;
  Role role;
};

constexpr Function kFunctions[] = {
    {"collections", "OrderedDict", Role::ordered_dict},
    {"torch._utils", "_rebuild_tensor", Role::rebuild_tensor},
    {"torch._utils", "_rebuild_tensor_v2", Role::rebuild_tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", Role::rebuild_tensor_v3},
    {"torch._utils", "_rebuild_parameter", Role::rebuild_parameter},
    // A parameter with attributes, such as Mamba's A_log with its _no_weight_decay.
    {"torch._utils", "_rebuild_parameter_with_state", Role::rebuild_parameter_with_state},
    {"torch", "Size", Role::size},
    {"torch", "device", Role::device},
    {"torch", "UntypedStorage", Role::bytes_storage},
    {"torch.storage", "UntypedStorage", Role::bytes_storage},
    {"torch.storage", "TypedStorage", Role::bytes_storage},
    {"torch.storage", "_UntypedStorage", Role::bytes_storage},
    {"torch.storage", "_TypedStorage", Role::bytes_storage},
};

struct StorageClass {
  std::string_view name;
  std::string_view dtype_name;
};

constexpr StorageClass kStorages[] = {
    {"DoubleStorage", "float64"},
    {"FloatStorage", "float32"},
    {"HalfStorage", "float16"},
    {"BFloat16Storage", "bfloat16"},
    {"LongStorage", "int64"},
    {"IntStorage", "int32"},
    {"ShortStorage", "int16"},
    {"CharStorage", "int8"},
    {"ByteStorage", "uint8"},
    {"BoolStorage", "bool"},
    {"ComplexFloatStorage", "complex64"},
    {"ComplexDoubleStorage", "complex128"},
    {"QInt8Storage", "qint8"},
    {"QUInt8Storage", "quint8"},
    {"QInt32Storage", "qint32"},
    {"QUInt4x2Storage", "quint4x2"},
    {"QUInt2x4Storage", "quint2x4"},
};

constexpr std::string_view kOtherDtypes[] = {
    "complex32",   "complex64",       "complex128",     "float8_e4m3fn",    "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "qint8",
    "quint8",      "qint32",          "quint4x2",       "quint2x4",
};

struct Opcode {
  uint8_t code;
  std::string_view name;
};

constexpr Opcode kOpcodes[] = {
    {'(', "MARK"},
    {'.', "STOP"},
    {'0', "POP"},
    {'1', "POP_MARK"},
    {'2', "DUP"},
    {'F', "FLOAT"},
    {'I', "INT"},
    {'J', "BININT"},
    {'K', "BININT1"},
    {'L', "LONG"},
    {'M', "BININT2"},
    {'N', "NONE"},
    {'P', "PERSID"},
    {'Q', "BINPERSID"},
    {'R', "REDUCE"},
    {'S', "STRING"},
    {'T', "BINSTRING"},
    {'U', "SHORT_BINSTRING"},
    {'V', "UNICODE"},
    {'X', "BINUNICODE"},
    {'a', "APPEND"},
    {'b', "BUILD"},
    {'c', "GLOBAL"},
    {'d', "DICT"},
    {'}', "EMPTY_DICT"},
    {'e', "APPENDS"},
    {'g', "GET"},
    {'h', "BINGET"},
    {'i', "INST"},
    {'j', "LONG_BINGET"},
    {'l', "LIST"},
    {']', "EMPTY_LIST"},
    {'o', "OBJ"},
    {'p', "PUT"},
    {'q', "BINPUT"},
    {'r', "LONG_BINPUT"},
    {'s', "SETITEM"},
    {'t', "TUPLE"},
    {')', "EMPTY_TUPLE"},
    {'u', "SETITEMS"},
    {'G', "BINFLOAT"},
    {0x80, "PROTO"},
    {0x81, "NEWOBJ"},
    {0x82, "EXT1"},
    {0x83, "EXT2"},
    {0x84, "EXT4"},
    {0x85, "TUPLE1"},
    {0x86, "TUPLE2"},
    {0x87, "TUPLE3"},
    {0x88, "NEWTRUE"},
    {0x89, "NEWFALSE"},
    {0x8a, "LONG1"},
    {0x8b, "LONG4"},
    {'B', "BINBYTES"},
    {'C', "SHORT_BINBYTES"},
    {0x8c, "SHORT_BINUNICODE"},
    {0x8d, "BINUNICODE8"},
    {0x8e, "BINBYTES8"},
    {0x8f, "EMPTY_SET"},
    {0x90, "ADDITEMS"},
    {0x91, "FROZENSET"},
    {0x92, "NEWOBJ_EX"},
    {0x93, "STACK_GLOBAL"},
    {0x94, "MEMOIZE"},
    {0x95, "FRAME"},
    {0x96, "BYTEARRAY8"},
    {0x97, "NEXT_BUFFER"},
    {0x98, "READONLY_BUFFER"},
};

}  // namespace

std::optional<PickleGlobal> find_pickle_global(std::string_view module, std::string_view name) {
  for (const Function& function : kFunctions) {
    if (function.module == module && function.name == name) {
      return PickleGlobal{function.role, {}, {}};
    }
  }
  if (module != "torch") {
    return std::nullopt;
  }
  for (const StorageClass& storage : kStorages) {
    if (storage.name == name) {
      return PickleGlobal{Role::storage, storage.dtype_name, dtype_of_name(storage.dtype_name)};
    }
  }
  if (const auto dtype = dtype_of_name(name)) {
    return PickleGlobal{Role::dtype, dtype_name(*dtype), dtype};
  }
  for (const std::string_view other : kOtherDtypes) {
    if (other == name) {
      return PickleGlobal{Role::dtype, other, {}};
    }
  }
  return std::nullopt;
}

std::string pickle_opcode_name(uint8_t opcode) {
  for (const Opcode& row : kOpcodes) {
    if (row.code == opcode) {
      return std::string(row.name);
    }
  }
  return fmt::format("0x{:02x}", opcode);
}

}  // namespace mamba::io
