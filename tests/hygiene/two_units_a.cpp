#include <dapt/fwd.hpp>

#include <dapt/dapt.hpp>

int major_version_seen_by_b();

// Each name of fwd.hpp that is no template is a type of the library, of the same kind.
template <class... T>
constexpr bool all_complete = ((sizeof(T) > 0) && ...);
using namespace dapt;
static_assert(all_complete<Error, Batch, ItemResult, Linear, LossSum, MetricValue, NamedParameter, PackedSequence, Page, Progress, RunHeader,
                           SettingResult, ComparisonResult, StepInfo, StepRecord, TokenizedPage, TrainReport, ConstantLr, SpecialTokens,
                           StreamPosition, SpecialText, AnyTokenizer, HfTokenizer, SentencePieceTokenizer, PackedStream, NgramCrossEntropyScorer,
                           TermDensityScorer, FieldScorer, Llama, LlamaConfig, FullParameter, Lora, AdamW, CosineLr, LinearLr, ExactMatch,
                           LogProbMrr, Perplexity, JsonLines, ProgressLine, TensorBoard, TrainOptions>);

int main() { return major_version_seen_by_b() == DAPT_VERSION_MAJOR ? 0 : 1; }
