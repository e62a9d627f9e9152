// Names without LibTorch: for headers of your own that only pass these types by reference or pointer. Standard library headers alone cost
// less than a tenth of the tensor class. Templates that a concept constrains are not here: their declaration needs the concept.
#pragma once

namespace dapt {

// core
class Error;
struct Batch;
struct ItemResult;
struct Linear;
struct LossSum;
struct MetricValue;
struct NamedParameter;
struct PackedSequence;
struct Page;
struct Progress;
struct RunHeader;
struct SettingResult;
struct ComparisonResult;
struct StepInfo;
struct StepRecord;
struct TokenizedPage;
struct TrainReport;

// concepts
struct ConstantLr;
struct SpecialTokens;
struct StreamPosition;
enum class SpecialText;

// text and data
class AnyTokenizer;
class HfTokenizer;
class SentencePieceTokenizer;
class TokenStore;
class NgramCrossEntropyScorer;
class TermDensityScorer;
struct FieldScorer;

// models, adapters, optimizers
class Llama;
struct LlamaConfig;
struct FullParameter;
struct Lora;
struct AdamW;
struct CosineLr;
struct LinearLr;

// metrics and reports
struct ExactMatch;
struct LogProbMrr;
struct Perplexity;
class JsonLines;
class ProgressLine;
class TensorBoard;

// training
struct TrainOptions;
template <class Model, class Adapter, class Rule, class Schedule>
class Trainer;

}  // namespace dapt
