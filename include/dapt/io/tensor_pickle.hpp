// Pickle protocol 2 (CPython's pickletools.py) as far as torch.save uses it for a dictionary of tensors. A pickle is a program; this reader knows only the
// operations that build dictionaries, tuples, numbers, strings and tensors, and only the globals that tensors need. It never calls anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <c10/core/ScalarType.h>

#include <dapt/core/error.hpp>

namespace dapt::detail {

/// A storage as the pickle names it: elements of one type under a key of the archive.
struct PickledStorage {
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::string_view key;  ///< part of the pickle's bytes
  std::int64_t numel = 0;
};

/// A view of a storage, as it stands in the pickle: nothing of it has been checked against the storage.
struct PickledTensor {
  PickledStorage storage;
  std::int64_t offset = 0;  ///< elements
  std::vector<std::int64_t> shape, strides;
};

/// Reads one pickle. Throws dapt::Error beginning with `source`, naming the byte, and every global that is not of tensors.
class TensorPickle {
 public:
  TensorPickle(std::span<const std::byte> bytes, std::string source) : bytes_(bytes), source_(std::move(source)) {}

  /// The tensors of the dictionary that the pickle holds.
  std::map<std::string, PickledTensor> read();

 private:
  struct Value;
  struct None {};
  enum class Function { ordered_dict, rebuild_tensor, rebuild_parameter };
  struct Tuple {
    std::vector<Value*> items;
  };
  struct List {
    std::vector<Value*> items;
  };
  struct Dictionary {
    std::vector<std::pair<Value*, Value*>> items;
  };
  struct StorageType {
    at::ScalarType dtype;
  };
  /// Values point at each other and may do so in a circle, so they all live in one arena.
  struct Value {
    std::variant<None, bool, std::int64_t, double, std::string_view, Tuple, List, Dictionary, Function, StorageType, PickledStorage, PickledTensor> data;
  };

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(source_, ": ", parts..., " (byte ", at_, " of its pickle)");
  }
  template <class... Parts>
  void expect(bool condition, const Parts&... parts) const {
    if (!condition) refuse(parts...);
  }

  std::string_view take(std::uint64_t count) {
    expect(count <= bytes_.size() - at_, "the pickle ends early");
    const std::string_view result(reinterpret_cast<const char*>(bytes_.data()) + at_, count);
    at_ += count;
    return result;
  }
  template <class Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view line();

  void push(decltype(Value::data) data) { stack_.push_back(&arena_.emplace_back(Value{std::move(data)})); }
  Value* pop() {
    expect(stack_.size() > (marks_.empty() ? 0 : marks_.back()), "the pickle takes a value that it has not made");
    Value* value = stack_.back();
    stack_.pop_back();
    return value;
  }
  std::vector<Value*> pop_to_mark();
  std::vector<Value*> pop_tuple(std::size_t count);
  template <class Kind>
  Kind& as(Value* value, const char* expected) const {
    auto* result = std::get_if<Kind>(&value->data);
    expect(result != nullptr, "expected ", expected);
    return *result;
  }
  Value* top() {
    Value* value = pop();
    stack_.push_back(value);
    return value;
  }

  bool step();
  void add_items(const std::vector<Value*>& items);
  void append(const std::vector<Value*>& items);
  std::int64_t read_long();
  double read_double();
  void push_global();
  void push_storage();
  void call();
  void rebuild_tensor(const std::vector<Value*>& arguments);
  std::vector<std::int64_t> integers(Value* value) const;

  std::span<const std::byte> bytes_;
  std::string source_;
  std::size_t at_ = 0;
  std::deque<Value> arena_;
  std::vector<Value*> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint32_t, Value*> memo_;
};

inline std::map<std::string, PickledTensor> TensorPickle::read() {
  expect(take(1) == "\x80", "no pickle of protocol 2");
  const auto protocol = number<std::uint8_t>();
  expect(protocol == 2, "the pickle has protocol ", int{protocol}, ", expected 2, which torch.save uses unless told otherwise");
  while (step()) {
  }
  expect(stack_.size() == 1 && marks_.empty(), "the pickle leaves ", stack_.size(), " values, expected one");
  std::map<std::string, PickledTensor> result;
  for (const auto& [key, value] : as<Dictionary>(stack_[0], "a dictionary of tensors as the file's content").items) {
    const auto* name = std::get_if<std::string_view>(&key->data);
    require(name != nullptr, source_, ": a key of its dictionary is no string, expected names of tensors");
    const auto* tensor = std::get_if<PickledTensor>(&value->data);
    require(tensor != nullptr, source_, ": entry \"", *name, "\" is no tensor; expected a model's weights alone, not a training checkpoint");
    require(result.emplace(*name, *tensor).second, source_, ": tensor \"", *name, "\" is there twice");
  }
  return result;
}

/// One operation; false after the last one.
inline bool TensorPickle::step() {
  const auto operation = number<std::uint8_t>();
  switch (operation) {
    case '.': return false;                                                            // STOP
    case '(': marks_.push_back(stack_.size()); return true;                            // MARK
    case 'N': push(None{}); return true;                                               // NONE
    case 0x88: push(true); return true;                                                // NEWTRUE
    case 0x89: push(false); return true;                                               // NEWFALSE
    case 'J': push(std::int64_t{number<std::int32_t>()}); return true;                 // BININT
    case 'K': push(std::int64_t{number<std::uint8_t>()}); return true;                 // BININT1
    case 'M': push(std::int64_t{number<std::uint16_t>()}); return true;                // BININT2
    case 0x8a: push(read_long()); return true;                                         // LONG1
    case 'G': push(read_double()); return true;                                        // BINFLOAT
    case 'X': push(take(number<std::uint32_t>())); return true;                        // BINUNICODE
    case ')': push(Tuple{}); return true;                                              // EMPTY_TUPLE
    case 't': push(Tuple{pop_to_mark()}); return true;                                 // TUPLE
    case 0x85: push(Tuple{pop_tuple(1)}); return true;                                 // TUPLE1
    case 0x86: push(Tuple{pop_tuple(2)}); return true;                                 // TUPLE2
    case 0x87: push(Tuple{pop_tuple(3)}); return true;                                 // TUPLE3
    case ']': push(List{}); return true;                                               // EMPTY_LIST
    case 'a': append(pop_tuple(1)); return true;                                       // APPEND
    case 'e': append(pop_to_mark()); return true;                                      // APPENDS
    case '}': push(Dictionary{}); return true;                                         // EMPTY_DICT
    case 's': add_items(pop_tuple(2)); return true;                                    // SETITEM
    case 'u': add_items(pop_to_mark()); return true;                                   // SETITEMS
    case 'q': memo_[number<std::uint8_t>()] = top(); return true;                      // BINPUT
    case 'r': memo_[number<std::uint32_t>()] = top(); return true;                     // LONG_BINPUT
    case 'h':                                                                          // BINGET
    case 'j': {                                                                        // LONG_BINGET
      const auto found = memo_.find(operation == 'h' ? number<std::uint8_t>() : number<std::uint32_t>());
      expect(found != memo_.end(), "the pickle names a value that it has not made");
      stack_.push_back(found->second);
      return true;
    }
    case 'c': push_global(); return true;                                              // GLOBAL
    case 'Q': push_storage(); return true;                                             // BINPERSID
    case 'R': call(); return true;                                                     // REDUCE
    case 'b': {                                                                        // BUILD: attributes of a state_dict, such as _metadata
      pop();
      as<Dictionary>(top(), "a dictionary to give attributes to");
      return true;
    }
    default: refuse("operation ", int{operation}, " of pickle, which a file of tensors does not need");
  }
}

inline std::string_view TensorPickle::line() {
  const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
  const auto end = rest.find('\n');
  expect(end != std::string_view::npos, "the pickle ends early");
  return take(end + 1).substr(0, end);
}

inline std::vector<TensorPickle::Value*> TensorPickle::pop_to_mark() {
  expect(!marks_.empty(), "the pickle goes back to a mark that it has not set");
  std::vector<Value*> result(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return result;
}

inline std::vector<TensorPickle::Value*> TensorPickle::pop_tuple(std::size_t count) {
  std::vector<Value*> result(count);
  for (std::size_t i = count; i-- > 0;) result[i] = pop();
  return result;
}

inline void TensorPickle::add_items(const std::vector<Value*>& items) {
  auto& dictionary = as<Dictionary>(top(), "a dictionary to put items into");
  expect(items.size() % 2 == 0, "a key without a value");
  for (std::size_t i = 0; i < items.size(); i += 2) dictionary.items.emplace_back(items[i], items[i + 1]);
}

inline void TensorPickle::append(const std::vector<Value*>& items) {
  auto& list = as<List>(top(), "a list to append to");
  list.items.insert(list.items.end(), items.begin(), items.end());
}

/// Little-endian, two's complement, of the length that the first byte gives.
inline std::int64_t TensorPickle::read_long() {
  const auto bytes = take(number<std::uint8_t>());
  expect(bytes.size() <= 8, "a whole number of ", bytes.size(), " bytes, expected at most 8");
  std::int64_t value = !bytes.empty() && (bytes.back() & 0x80) != 0 ? -1 : 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  return value;
}

/// Big-endian.
inline double TensorPickle::read_double() {
  const std::uint64_t bits = __builtin_bswap64(number<std::uint64_t>());
  double value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void TensorPickle::push_global() {
  const auto module = line(), name = line();
  if (module == "collections" && name == "OrderedDict") return push(Function::ordered_dict);
  if (module == "torch._utils" && (name == "_rebuild_tensor_v2" || name == "_rebuild_tensor")) return push(Function::rebuild_tensor);
  if (module == "torch._utils" && name == "_rebuild_parameter") return push(Function::rebuild_parameter);
  constexpr std::pair<std::string_view, at::ScalarType> storages[] = {
      {"FloatStorage", at::kFloat}, {"HalfStorage", at::kHalf}, {"BFloat16Storage", at::kBFloat16}, {"DoubleStorage", at::kDouble}, {"LongStorage", at::kLong},
      {"IntStorage", at::kInt},     {"ShortStorage", at::kShort}, {"CharStorage", at::kChar},       {"ByteStorage", at::kByte},     {"BoolStorage", at::kBool}};
  if (module == "torch")
    for (const auto& [storage, dtype] : storages)
      if (name == storage) return push(StorageType{dtype});
  refuse("the file asks for ", module, ".", name, ", which tensors do not need: refused, and nothing was executed");
}

/// ("storage", type, key, location, number of elements). Where the storage was when it was saved does not matter.
inline void TensorPickle::push_storage() {
  const auto& items = as<Tuple>(pop(), "a tuple that names a storage").items;
  expect(items.size() == 5 && as<std::string_view>(items[0], "the word storage") == "storage", "expected (\"storage\", type, key, location, elements)");
  push(PickledStorage{as<StorageType>(items[1], "a type of storage").dtype, as<std::string_view>(items[2], "a storage's key"),
                      as<std::int64_t>(items[4], "a storage's number of elements")});
}

inline void TensorPickle::call() {
  const auto& arguments = as<Tuple>(pop(), "a tuple of arguments").items;
  switch (as<Function>(pop(), "a function that makes tensors or dictionaries")) {
    case Function::ordered_dict:
      expect(arguments.empty(), "OrderedDict with arguments");
      return push(Dictionary{});
    case Function::rebuild_parameter:
      expect(!arguments.empty(), "_rebuild_parameter without a tensor");
      return push(as<PickledTensor>(arguments[0], "a parameter's tensor"));
    case Function::rebuild_tensor: return rebuild_tensor(arguments);
  }
}

/// storage, offset, sizes, strides[, requires_grad, hooks[, what else must be done to the values]].
inline void TensorPickle::rebuild_tensor(const std::vector<Value*>& arguments) {
  expect(arguments.size() >= 4 && arguments.size() <= 7, "a tensor of ", arguments.size(), " arguments, expected 4 to 7");
  if (arguments.size() == 7) {
    const auto* further = std::get_if<Dictionary>(&arguments[6]->data);
    expect(std::holds_alternative<None>(arguments[6]->data) || (further != nullptr && further->items.empty()), "a tensor that is a conjugate or negative view, which is not supported");
  }
  push(PickledTensor{as<PickledStorage>(arguments[0], "a tensor's storage"), as<std::int64_t>(arguments[1], "a tensor's offset"), integers(arguments[2]), integers(arguments[3])});
}

inline std::vector<std::int64_t> TensorPickle::integers(Value* value) const {
  const auto& items = as<Tuple>(value, "a tuple of whole numbers").items;
  expect(items.size() <= 64, "a tensor of ", items.size(), " dimensions, expected at most 64");  // a pickle may use one long tuple many times
  std::vector<std::int64_t> result;
  for (Value* item : items) result.push_back(as<std::int64_t>(item, "a whole number"));
  return result;
}

}  // namespace dapt::detail
