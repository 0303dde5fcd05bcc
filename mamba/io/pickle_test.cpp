#include "mamba/io/pickle.h"

#include <gtest/gtest.h>

#include "mamba/io/io_testing.h"
#include "mamba/io/pickle_names.h"

namespace mamba::io {
namespace {

using Kind = PickleValue::Kind;
using testing::contains;
using testing::little_endian;
using testing::message_of;
using testing::raw;

std::string pickle_error(const std::string& pickle) {
  return message_of([&] { read_pickle(pickle, "m.bin"); });
}

PickleValue root_of(const std::string& pickle) {
  const Pickle result = read_pickle(pickle, "m.bin");
  return result.values[result.root];
}

const std::string kStorage =
    raw("(U\x07storagectorch\nFloatStorage\nU\x01"
        "0U\x03"
        "cpuK\x06tQ");

// A call of _rebuild_tensor_v2 on kStorage with the given shape and strides.
std::string tensor(const std::string& shape, const std::string& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + kStorage + raw("K\x00") + shape + strides + "\x89}tR";
}

TEST(Pickle, PlainValues) {
  EXPECT_EQ(root_of("N.").kind, Kind::none);
  EXPECT_EQ(root_of("\x80\x02\x88.").number, 1);
  EXPECT_EQ(root_of("J\xfe\xff\xff\xff.").number, -2);
  EXPECT_EQ(root_of("K\xff.").number, 255);
  EXPECT_EQ(root_of("M\xff\xff.").number, 65535);
  EXPECT_EQ(root_of(raw("\x8a\x00.")).number, 0);
  EXPECT_EQ(root_of("\x8a\x01\xff.").number, -1);
  EXPECT_EQ(root_of(raw("\x8a\x02\xff\x00.")).number, 255);
  EXPECT_EQ(root_of(raw("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\x00.")).number, INT64_MAX);
  EXPECT_EQ(root_of(raw("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.")).number, INT64_MAX);
  EXPECT_EQ(root_of(raw("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xff.")).number, INT64_MIN);
  EXPECT_EQ(root_of(raw("\x8b\x01\x00\x00\x00\x07.")).number, 7);
  EXPECT_EQ(root_of("G\x3f\xf8" + std::string(6, '\0') + ".").kind, Kind::real);
  EXPECT_EQ(root_of("\x8c\x02hi.").text, "hi");
  EXPECT_EQ(root_of("\x8d" + little_endian(2, 8) + "hi.").text, "hi");
  EXPECT_EQ(root_of("\x8e" + little_endian(2, 8) + "hi.").kind, Kind::bytes);
  EXPECT_EQ(root_of("\x95" + little_endian(2, 8) + "N.").kind, Kind::none);
}

TEST(Pickle, Collections) {
  EXPECT_EQ(root_of("(K\x01K\x02K\x03t.").items.size(), 3u);
  EXPECT_EQ(root_of("NN\x86.").items.size(), 2u);
  EXPECT_EQ(root_of("](NNe.").items.size(), 2u);
  EXPECT_EQ(root_of("](NNl0Na.").items.size(), 1u);
  EXPECT_EQ(root_of("}NNs(NNNNu.").items.size(), 6u);
  EXPECT_EQ(root_of("(NNd.").kind, Kind::dict);
  EXPECT_EQ(root_of("\x8f(NN\x90.").kind, Kind::set);
  EXPECT_EQ(root_of(raw("]q\x00h\x00"
                        "a."))
                .items.size(),
            1u);  // a list that holds itself
  EXPECT_EQ(root_of("N((0"
                    "1.")
                .kind,
            Kind::none);
  EXPECT_EQ(root_of("ccollections\nOrderedDict\n](NNtaNN\x86"
                    "a\x85R.")
                .items.size(),
            4u);
  EXPECT_EQ(root_of("ccollections\nOrderedDict\n)R}NNsb.").items.size(), 0u);
}

TEST(Pickle, Tensors) {
  const std::string bytes = tensor("K\x02K\x03\x86", "K\x03K\x01\x86") + ".";
  const Pickle pickle = read_pickle(bytes, "m.bin");  // its text points into the bytes
  ASSERT_EQ(pickle.tensors.size(), 1u);
  EXPECT_EQ(pickle.tensors[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(pickle.tensors[0].strides, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(pickle.tensors[0].storage.key, "0");
  EXPECT_EQ(pickle.tensors[0].storage.items, 6u);
  EXPECT_EQ(pickle.tensors[0].dtype_name, "float32");
}

TEST(Pickle, RefusesEveryNameButThoseOnTheList) {
  EXPECT_EQ(pickle_error("\x80\x02"
                         "cos\nsystem\nU\x04true\x85R."),
            "m.bin: refuses to load: the pickle calls \"os.system\" (at byte 2)");
  EXPECT_EQ(pickle_error("\x80\x04\x8c\x05posix\x8c\x06system\x93."),
            "m.bin: refuses to load: the pickle calls \"posix.system\" (at byte 17)");
  for (const char* name :
       {"cbuiltins\neval\n", "c__builtin__\neval\n", "cbuiltins\ngetattr\n", "ctorch\nload\n", "ctorch.hub\nload\n",
        "ctorch._utils\n_rebuild_tensor_v2.x\n", "ctorch\nstorage.UntypedStorage\n", "c\n\n", "ctorch\n\n",
        "ccollections\nOrderedDict\r\n"}) {
    EXPECT_TRUE(contains(pickle_error(std::string(name) + "."), "refuses to load: the pickle calls")) << name;
  }
  // A name that is allowed, used as something that it is not.
  EXPECT_TRUE(contains(pickle_error("ctorch\nfloat32\n)R."), "calls something that is not a function"));
  EXPECT_TRUE(contains(pickle_error("ctorch\nFloatStorage\n)R."), "calls something that is not a function"));
  EXPECT_TRUE(contains(pickle_error("N)R."), "calls something that is not a function"));
  EXPECT_TRUE(contains(pickle_error("]}b."), "sets attributes of something that is not a dict"));
  EXPECT_TRUE(contains(pickle_error("NQ."), "persistent id that is not a storage"));
  EXPECT_TRUE(contains(pickle_error("(U\x07storageNU\x01"
                                    "0U\x03"
                                    "cpuK\x06tQ."),
                       "persistent id that is not a storage"));
}

TEST(Pickle, RefusesOtherOpcodesByName) {
  for (const auto& [opcode, name] : std::vector<std::pair<int, std::string>>{{'2', "DUP"},
                                                                             {'I', "INT"},
                                                                             {'V', "UNICODE"},
                                                                             {'P', "PERSID"},
                                                                             {'i', "INST"},
                                                                             {'o', "OBJ"},
                                                                             {0x81, "NEWOBJ"},
                                                                             {0x82, "EXT1"},
                                                                             {0x84, "EXT4"},
                                                                             {0x92, "NEWOBJ_EX"},
                                                                             {0x96, "BYTEARRAY8"},
                                                                             {0x97, "NEXT_BUFFER"},
                                                                             {0xff, "0xff"},
                                                                             {0, "0x00"}}) {
    EXPECT_TRUE(contains(pickle_error("\x80\x02" + std::string(1, static_cast<char>(opcode)) + "."),
                         "refuses to load: the pickle uses the opcode " + name +
                             ", which a state dict does not need "
                             "(at byte 2)"));
  }
  EXPECT_TRUE(contains(pickle_error(raw("\x80\x01N.")), "the pickle has protocol 1"));
  EXPECT_TRUE(contains(pickle_error("\x80\x06N."), "the pickle has protocol 6"));
}

TEST(Pickle, ProgramsThatAreCutOffOrLie) {
  EXPECT_TRUE(contains(pickle_error(""), "the pickle is cut off: 1 bytes are wanted but 0 are left (at byte 0)"));
  EXPECT_TRUE(contains(pickle_error("N"), "cut off"));
  EXPECT_TRUE(contains(pickle_error("X\xff\xff\xff\xff"), "4294967295 bytes are wanted but 0 are left"));
  EXPECT_TRUE(contains(pickle_error("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"), "18446744073709551615 bytes are wanted"));
  EXPECT_TRUE(contains(pickle_error("\x8b\xff\xff\xff\xff"), "cut off"));
  EXPECT_TRUE(contains(pickle_error("cos"), "cut off in a name"));
  EXPECT_TRUE(contains(pickle_error("."), "empty stack"));
  EXPECT_TRUE(contains(pickle_error("N(."), "empty stack"));  // what lies below a mark is out of reach
  EXPECT_TRUE(contains(pickle_error("N(\x85."), "empty stack"));
  EXPECT_TRUE(contains(pickle_error("t."), "a mark that it never set"));
  EXPECT_TRUE(contains(pickle_error("q"), "cut off"));
  EXPECT_TRUE(contains(pickle_error("q\x01"), "empty stack"));
  EXPECT_TRUE(contains(pickle_error("h\x07."), "recalls value 7, which it never stored"));
  EXPECT_TRUE(contains(pickle_error("j\xff\xff\xff\xff."), "recalls value 4294967295"));
  EXPECT_TRUE(contains(pickle_error("NNa."), "something that is not a list"));
  EXPECT_TRUE(contains(pickle_error("}(Nu."), "something that is not a dict"));
  EXPECT_TRUE(contains(pickle_error("NN\x93."), "looks up a name that is not a string"));
  EXPECT_TRUE(contains(pickle_error("ccollections\nOrderedDict\nNR."), "not a tuple of at most 8"));
  EXPECT_TRUE(contains(pickle_error("ccollections\nOrderedDict\n]Na\x85R."), "not a list of pairs"));
  EXPECT_TRUE(contains(pickle_error("ctorch\nSize\n)R."), "torch.Size"));
  EXPECT_TRUE(contains(pickle_error("ctorch._utils\n_rebuild_parameter\nN\x85R."), "not a tensor"));
  EXPECT_TRUE(contains(pickle_error("ctorch._utils\n_rebuild_tensor_v2\nN\x85R."), "from 1 arguments"));
  EXPECT_TRUE(contains(pickle_error(tensor("K\x02\x85", ")") + "."), "1 axes and 0 strides"));
  EXPECT_TRUE(contains(pickle_error(tensor("J\xff\xff\xff\xff\x85", "K\x01\x85") + "."), "a shape that is not a size"));
  EXPECT_TRUE(
      contains(pickle_error(tensor("K\x02\x85", "J\xff\xff\xff\xff\x85") + "."), "a stride that is not a size"));
  EXPECT_TRUE(contains(pickle_error(tensor("N", ")") + "."), "a shape that is not a tuple"));
  EXPECT_TRUE(contains(pickle_error(tensor("(" + std::string(33, 'N') + "t", ")") + "."), "at most 32 sizes"));
}

TEST(Pickle, NeedsNoMoreMemoryOrStackThanAStateDict) {
  EXPECT_TRUE(contains(pickle_error(std::string(2'000'001, ']')), "builds more than 2000000 values"));
  EXPECT_TRUE(contains(pickle_error(std::string(2'000'001, '(')), "marks more than 2000000 values"));
  EXPECT_TRUE(contains(pickle_error("N" + std::string(2'000'001, '\x94')), "remembers more than 2000000 values"));
  std::string recalls = raw("Nq\x00");
  for (int i = 0; i < 2'000'000; ++i) {
    recalls += raw("h\x00");
  }
  EXPECT_TRUE(contains(pickle_error(recalls), "stacks more than 2000000 values"));
  EXPECT_TRUE(contains(pickle_error(std::string((64 << 20) + 1, 'N')), "67108865 bytes long"));
  // A million lists, each inside the next one, and nothing recurses.
  EXPECT_EQ(root_of("N" + std::string(1'000'000, '\x85') + ".").items.size(), 1u);
  // One list of 1,000 pairs, made into a dict again and again: 8,000 items for a few bytes.
  std::string pairs = "]";
  for (int i = 0; i < 1000; ++i) {
    pairs +=
        "NN\x86"
        "a";
  }
  std::string many = pairs + raw("\x85q\x00"
                                 "0ccollections\nOrderedDict\nq\x01"
                                 "0(");
  for (int i = 0; i < 9000; ++i) {
    many += raw("h\x01h\x00R");
  }
  EXPECT_TRUE(contains(pickle_error(many + "t."), "holds in its lists more than 16000000 values"));
}

}  // namespace
}  // namespace mamba::io
