// Every extension point of dapt, one header each.
#pragma once

#include <dapt/concepts/adapter.hpp>
#include <dapt/concepts/batch_stream.hpp>
#include <dapt/concepts/causal_lm.hpp>
#include <dapt/concepts/lr_schedule.hpp>
#include <dapt/concepts/metric.hpp>
#include <dapt/concepts/observer.hpp>
#include <dapt/concepts/optimizer.hpp>
#include <dapt/concepts/page_scorer.hpp>
#include <dapt/concepts/tokenizer.hpp>
