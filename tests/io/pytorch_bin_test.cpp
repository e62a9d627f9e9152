#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include <ATen/ops/arange.h>

#include <dapt/io/pytorch_bin.hpp>
#include <dapt/io/safetensors.hpp>

#include "support/paths.hpp"

using namespace dapt;
using dapt::testing_support::TemporaryFolder;
using dapt::testing_support::read_bytes;
using dapt::testing_support::recorded;
using dapt::testing_support::write_bytes;
using Catch::Contains;

namespace {

template <class Number>
std::string little(Number number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof number);
}

using Entries = std::vector<std::pair<std::string, std::string>>;

/// A zip archive of stored entries. CRCs stay 0, as nothing reads them.
std::string archive(const Entries& entries) {
  std::string files, directory;
  for (const auto& [name, data] : entries) {
    const auto size = static_cast<std::uint32_t>(data.size());
    const std::string sizes = little<std::uint32_t>(0) + little(size) + little(size) + little(static_cast<std::uint16_t>(name.size())) + little<std::uint16_t>(0);
    directory += "PK\1\2" + std::string(12, '\0') + sizes + std::string(10, '\0') + little(static_cast<std::uint32_t>(files.size())) + name;
    files += "PK\3\4" + std::string(10, '\0') + sizes + name + data;
  }
  const auto count = little(static_cast<std::uint16_t>(entries.size()));
  return files + directory + "PK\5\6" + std::string(4, '\0') + count + count + little(static_cast<std::uint32_t>(directory.size())) +
         little(static_cast<std::uint32_t>(files.size())) + std::string(2, '\0');
}

std::string text(const std::string& value) { return "X" + little(static_cast<std::uint32_t>(value.size())) + value; }
std::string integer(std::int64_t value) { return "\x8a\x08" + little(value); }
std::string tuple(const std::vector<std::int64_t>& values) {
  std::string result = "(";
  for (const auto value : values) result += integer(value);
  return result + "t";
}
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }

/// A tensor as torch.save writes it, each of its numbers free.
struct Pickled {
  std::int64_t storage_numel = 6, offset = 0;
  std::vector<std::int64_t> shape = {2, 3}, strides = {3, 1};
  std::string key = "0", storage = "FloatStorage", further = "";
  std::string bytes() const {
    return global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") + global("torch", storage) + text(key) + text("cpu") + integer(storage_numel) + "tQ" +
           integer(offset) + tuple(shape) + tuple(strides) + "\x89" + global("collections", "OrderedDict") + ")R" + further + "tR";
  }
};

std::string dictionary(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string result = "\x80\x02}";
  for (const auto& [name, value] : items) result += text(name) + value + "s";
  return result + ".";
}
std::string six_floats() {
  std::string data;
  for (int i = 0; i < 6; ++i) data += little(static_cast<float>(i));
  return data;
}
std::string file_of(const std::string& pickle) { return archive({{"a/data.pkl", pickle}, {"a/data/0", six_floats()}}); }
std::string file_of(const Pickled& tensor) { return file_of(dictionary({{"x", tensor.bytes()}})); }

Tensor opened(const std::string& bytes) {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "x.bin", bytes);
  return PytorchBinFile(folder.path() / "x.bin").tensor("x");
}

void refused(const std::string& bytes, const std::string& message) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "broken.bin";
  write_bytes(file, bytes);
  INFO(message);
  REQUIRE_THROWS_WITH(PytorchBinFile(file), Contains(file.string()) && Contains(message));
}
void refused(const Pickled& tensor, const std::string& message) { refused(file_of(tensor), "tensor \"x\": " + message); }
void refused_pickle(const std::string& pickle, const std::string& message) { refused(file_of(pickle), message); }

void same_as_recorded(const std::string& name) {
  const PytorchBinFile file(recorded("io/torch_save") / (name + ".bin"));
  const SafetensorsFile expected(recorded("io/torch_save") / (name + ".safetensors"));
  REQUIRE(file.names() == expected.names());
  for (const auto& tensor : expected.names()) {
    INFO(tensor);
    REQUIRE(file.info(tensor).dtype == expected.info(tensor).dtype);
    REQUIRE(file.info(tensor).shape == expected.info(tensor).shape);
    REQUIRE(file.tensor(tensor).scalar_type() == expected.tensor(tensor).scalar_type());
    REQUIRE(file.tensor(tensor).equal(expected.tensor(tensor)));
  }
}

}  // namespace

TEST_CASE("Tensors of every type are read as torch.save wrote them") { same_as_recorded("types"); }

TEST_CASE("Views keep offset and strides, and share the storage they shared when they were saved") {
  same_as_recorded("views");
  const PytorchBinFile file(recorded("io/torch_save") / "views.bin");
  const Tensor base = file.tensor("base");
  REQUIRE(file.tensor("transposed").strides() == at::IntArrayRef({1, 6}));
  REQUIRE(file.tensor("steps").strides() == at::IntArrayRef({12, 3}));
  REQUIRE(file.tensor("tied").const_data_ptr() == base.const_data_ptr());
  REQUIRE(file.tensor("rows").const_data_ptr<float>() == base.const_data_ptr<float>() + 6);
}

TEST_CASE("A tensor outlives the reader, writing to it does not reach the file, and what is forgotten is read again") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.bin";
  std::string data(std::size_t{1} << 22, '\0');
  write_bytes(path, archive({{"abc/data/0", data}, {"abc/data.pkl", dictionary({{"x", Pickled{.storage_numel = 1 << 20, .shape = {1 << 20}, .strides = {1}}.bytes()}})}}));
  const std::string before = read_bytes(path);
  Tensor x;
  {
    const PytorchBinFile file(path);
    x = file.tensor("x");
    x.fill_(9);
    file.forget("x");
  }
  REQUIRE(read_bytes(path) == before);
  REQUIRE(x[1 << 19].item<float>() == 0);  // given back and read anew
}

TEST_CASE("Storages that are not aligned are copied") {
  for (const char* name : {"a", "ab", "abc", "abcd"}) {
    const Tensor x = opened(archive({{std::string(name) + "/data.pkl", dictionary({{"x", Pickled{.offset = 1, .shape = {2, 2}, .strides = {1, 3}}.bytes()}})},
                                     {std::string(name) + "/data/0", six_floats()}}));
    REQUIRE(reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 4 == 0);
    REQUIRE(x.equal(at::arange(6, at::kFloat).slice(0, 1, 5).as_strided({2, 2}, {1, 3})));
  }
}

TEST_CASE("A pickle that would run a command is refused by the command's name, and nothing runs") {
  REQUIRE_THROWS_WITH(PytorchBinFile(recorded("io/torch_save") / "system.bin"), Contains("system.bin: the file asks for posix.system, which tensors do not need"));
  REQUIRE_FALSE(std::filesystem::exists("opened-by-pickle"));
  refused_pickle("\x80\x02" + global("os", "system") + text("touch x") + "\x85R.", "asks for os.system");
  refused_pickle("\x80\x02" + global("builtins", "eval") + text("1") + "\x85R.", "asks for builtins.eval");
  refused_pickle("\x80\x02" + global("torch", "load") + ".", "asks for torch.load");
  refused_pickle("\x80\x02" + global("torch._utils", "_rebuild_device_tensor_from_numpy") + ".", "asks for torch._utils._rebuild_device_tensor_from_numpy");
  refused_pickle("\x80\x02" + global("collections", "OrderedDict") + ")R" + text("a") + "\x85R.", "expected a function");
}

TEST_CASE("Other formats of torch.save say what they are") {
  const auto refuses = [](const char* name, const char* message) {
    INFO(name);
    REQUIRE_THROWS_WITH(PytorchBinFile(recorded("io/torch_save") / name), Contains(name) && Contains(message));
  };
  refuses("legacy.bin", "format of PyTorch before 1.6, which is not read; write it anew");
  refuses("protocol4.bin", "protocol 4, expected 2");
  refuses("nested.bin", "is no tensor; expected a model's weights alone, not a training checkpoint");
  refuses("conjugate.bin", "conjugate or negative view, which is not supported");
  refuses("compressed.bin", "is compressed (method 8), expected stored");
  refused("x", "expected a zip archive");
  refused("", "empty file");
  refused("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS");
}

TEST_CASE("Sizes, strides and offsets are held against the storage before anything is read") {
  REQUIRE(opened(file_of(Pickled{})).equal(at::arange(6, at::kFloat).view({2, 3})));
  refused(Pickled{.storage_numel = 7}, "its storage has 7 elements of 4 bytes, but entry \"a/data/0\" has 24 bytes");
  refused(Pickled{.storage_numel = -1}, "its storage has -1 elements");
  refused(Pickled{.storage_numel = INT64_MAX / 2}, "its storage has 4611686018427387903 elements");
  refused(Pickled{.storage = "DoubleStorage"}, "its storage has 6 elements of 8 bytes, but entry \"a/data/0\" has 24 bytes");
  refused(Pickled{.key = "1"}, "no entry \"a/data/1\" in the archive");
  refused(Pickled{.key = "../../etc/passwd"}, "no entry \"a/data/../../etc/passwd\" in the archive");
  refused(Pickled{.offset = 1}, "reaches to element 6 of a storage of 6");
  refused(Pickled{.offset = -1}, "its offset is -1");
  refused(Pickled{.offset = INT64_MAX}, "its strides do not fit 63 bits");
  refused(Pickled{.shape = {2, 3, 1}}, "found 3 sizes and 2 strides");
  refused(Pickled{.shape = {-2, 3}}, "its size does not fit 63 bits");
  refused(Pickled{.shape = {INT64_MAX / 2, 3}}, "its size does not fit 63 bits");
  refused(Pickled{.shape = {INT64_MAX / 2, 1}, .strides = {0, 1}}, "its size does not fit 63 bits");
  refused(Pickled{.shape = {1 << 20, 3}, .strides = {0, 1}}, "has 3145728 elements, more than the 6 of its storage");
  refused(Pickled{.shape = {2, 3}, .strides = {INT64_MAX, 1}}, "its strides do not fit 63 bits");
  refused(Pickled{.strides = {-3, 1}}, "its stride is -3");
  refused(file_of(Pickled{.shape = std::vector<std::int64_t>(65, 1), .strides = std::vector<std::int64_t>(65, 1)}), "a tensor of 65 dimensions, expected at most 64");
  refused(file_of(Pickled{.storage = "ComplexFloatStorage"}), "asks for torch.ComplexFloatStorage");
  const Tensor none = opened(file_of(Pickled{.offset = 6, .shape = {0, 4}, .strides = {4, 1}}));
  REQUIRE(none.sizes() == at::IntArrayRef({0, 4}));
}

TEST_CASE("A pickle that is no dictionary of tensors is refused, with the byte where it goes wrong") {
  const std::string x = Pickled{}.bytes();
  refused_pickle(dictionary({{"x", x}, {"x", x}}), "tensor \"x\" is there twice");
  refused_pickle(dictionary({{"step", integer(3)}}), "entry \"step\" is no tensor");
  refused_pickle("\x80\x02}K\1" + x + "s.", "a key of its dictionary is no string");
  refused_pickle("\x80\x02" + x + ".", "expected a dictionary of tensors as the file's content");
  refused_pickle("\x80\x02}}.", "leaves 2 values, expected one (byte 5 of its pickle)");
  refused_pickle("\x80\x02.", "leaves 0 values");
  refused_pickle("\x80\x02}", "the pickle ends early (byte 3");
  refused_pickle("\x80\x02" + std::string("X\xff\xff\xff\xff") + "ab", "the pickle ends early");
  refused_pickle("\x80\x02R.", "takes a value that it has not made");
  refused_pickle("\x80\x02}(0", "operation 48 of pickle");
  refused_pickle("\x80\x02}(K\1u.", "a key without a value");
  refused_pickle("\x80\x02}t.", "a mark that it has not set");
  refused_pickle("\x80\x02h\5.", "names a value that it has not made");
  refused_pickle("\x80\x02" + text("storage") + "\x85Q.", "expected (\"storage\", type, key, location, elements)");
  refused_pickle("\x80\x02\x8a\x09" + std::string(9, 'x') + ".", "a whole number of 9 bytes, expected at most 8");
  refused_pickle("no pickle", "no pickle of protocol 2");
  refused_pickle("", "the pickle ends early");
}

TEST_CASE("An archive that is damaged or not one of torch.save is refused") {
  const std::string pickle = dictionary({{"x", Pickled{}.bytes()}}), data = six_floats();
  refused(archive({{"a/data/0", data}}), "without an entry data.pkl");
  refused(archive({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}, {"a/data/0", data}}), "two entries data.pkl");
  refused(archive({{"a/data.pkl", pickle}, {"a/data/0", data}, {"a/data/0", data}}), "entry \"a/data/0\" twice");
  refused(archive({{"a/data.pkl", pickle}, {"a/data/0", data}, {"a/byteorder", "big"}}), "another byte order");
  refused(archive({{"a/data.pkl", pickle + std::string(16'000'000, '.')}, {"a/data/0", data}}), "expected at most 16000000");
  const auto changed = [&](const std::string& mark, std::size_t offset, const std::string& bytes) {
    std::string file = archive({{"a/data.pkl", pickle}, {"a/data/0", data}});
    return file.replace(file.rfind(mark) + offset, bytes.size(), bytes);
  };
  refused(changed("PK\5\6", 8, little<std::uint16_t>(1) + little<std::uint16_t>(1)), "its directory ends at byte");
  refused(changed("PK\5\6", 8, little<std::uint16_t>(3) + little<std::uint16_t>(3)), "its directory has 2 entries, expected 3");
  refused(changed("PK\5\6", 12, little<std::uint32_t>(0x7fffffff)), "its directory is said to be at byte");
  refused(changed("PK\5\6", 16, little<std::uint32_t>(0xffffffff)), "no zip64 locator");
  refused(changed("PK\1\2", 8, "\1"), "is encrypted");
  refused(changed("PK\1\2", 24, little<std::uint32_t>(25)), "is stored in 24 bytes, expected 25");
  refused(changed("PK\1\2", 20, little<std::uint32_t>(4000) + little<std::uint32_t>(4000)), "do not end before the directory");
  refused(changed("PK\1\2", 20, little<std::uint32_t>(0xffffffff)), "lacks its 64-bit sizes");
  refused(changed("PK\1\2", 42, little<std::uint32_t>(0)), "has another name at byte 0");
  refused(changed("PK\1\2", 42, little<std::uint32_t>(1)), "no entry \"a/data/0\" at byte 1");
}

TEST_CASE("However a file is cut or changed, it is read within its bounds or refused") {
  const std::string whole = read_bytes(recorded("io/torch_save") / "views.bin");
  const TemporaryFolder folder;
  const auto path = folder.path() / "x.bin";
  write_bytes(path, whole);
  std::size_t opened = 0;
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto put = [&](std::size_t at, char byte) { file.seekp(static_cast<std::streamoff>(at)).put(byte).flush(); };
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (const int flip : {0x01, 0x80, 0xff}) {
        put(at, static_cast<char>(whole[at] ^ flip));
        try {
          const PytorchBinFile reader(path);
          for (const auto& name : reader.names()) reader.tensor(name).clone();
          ++opened;
        } catch (const Error&) {  // the other outcome that is right
        }
      }
      put(at, whole[at]);
    }
  }
  REQUIRE(opened > 0);  // padding, values and names
  REQUIRE_NOTHROW(PytorchBinFile(path));
  for (std::size_t size = whole.size(); size-- > 0;) {
    std::filesystem::resize_file(path, size);
    REQUIRE_THROWS_AS(PytorchBinFile(path), Error);
  }
}
