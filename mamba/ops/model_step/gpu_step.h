// GPU kernel, in the dialect of ops/gpu: a token of each sequence through a whole model, from its id to the logits. All
// groups work on each phase and wait for one another in between:
//
//   0. h = the tokens' embeddings
//   and for each layer, x being h times the norm's weights, whose factor is applied to the products:
//   1. xz = in_proj(x), then the convolution of x      8 kInTiles rows of weights and kInRows sequences to a group
//   2. dt, B and C = x_proj(u)                         8 rows of weights and 16 sequences to a group
//   3. dt_proj, the state's step, skip and gate        8 channels of kSequences to a SIMD group, 4 lanes to a channel
//   4. h += out_proj(y), x and parts of its squares    8 kOutTiles rows and kOutRows sequences to a group
//   5. logits of x                                     8 kWordTiles words to a SIMD group
//
// The SIMD groups of a group share the length of the products 1, 2 and 4, and their sequences in k{In,Out}RowParts
// parts. While few groups have work in phase 2, the others bring what the next two phases need into the cache; kEarly:
// and what the next layer begins with, which otherwise waits for phase 3. What a phase's end needs is asked for before
// its products, where there are registers for it. kDots: products of the one sequence are dot products (tiles.h).
//
// This file has what comes before the phases; gpu_numbers.h and gpu_step_phases.h are the rest of the same body.
constexpr int kWarps = kThreads / 32;
constexpr int kInParts = kWarps / kInRowParts;
constexpr int kInRows = 16 * kInRowTiles * kInRowParts;
constexpr int kOutParts = kWarps / kOutRowParts;
constexpr int kOutRows = 16 * kOutRowTiles * kOutRowParts;
constexpr int kBefore = kTaps - 1;
// kFew: 1 where there is one sequence, 8 where there are no more, else 16.
constexpr bool kHigh = kFew > 8;
constexpr int kStaged = kFew == 1 ? 1 : 16;  // rows of a tile
// At the end of a product of tiles a SIMD group has some rows, 32 columns at most; more columns only of a single row.
constexpr int kInUnitRows = kFew == 1 ? 1 : 16 * kInRowParts;
constexpr int kOutUnitRows = kFew == 1 ? 1 : 16 * kOutRowParts;
constexpr int kInChunks = (8 * kInTiles + 31) / 32;
constexpr int kInUnits = (kInUnitRows * kInChunks + kWarps - 1) / kWarps;
constexpr int kOutChunks = (8 * kOutTiles + 31) / 32;
constexpr int kOutUnits = (kOutUnitRows * kOutChunks + kWarps - 1) / kWarps;
constexpr int kMostTiles = kInTiles > kOutTiles ? kInTiles : kOutTiles;
constexpr int kInProductTurn = kInRowTiles == 1 ? 1 : 0;
constexpr int kOutProductTurn = kOutRowTiles == 1 ? 1 : 0;
constexpr int kSize = int(sizeof(T));
constexpr int64_t kMostStateBytes = 2 << 20;
constexpr float kLog2e = 1.44269504f;
MAMBA_SHARED(float, stage, kWarps* kStaged * 8 * kMostTiles);
const int layers = A_shape[0];
const int batch = ssm_shape[1];
const int channels = A_shape[1];
const int states = A_shape[2];
const int rank = dt_proj_shape[2];
const int width = out_proj_shape[1];
const int words = output_shape[0];
const int projected = rank + 2 * states;
const float eps = mamba_float_of_bits(kEpsBits);
const int thread = MAMBA_THREAD;
const int lane = thread % 32;
const int warp = thread / 32;
const int in_part = warp % kInParts;
const int in_row_part = warp / kInParts;
const int out_part = warp % kOutParts;
const int out_row_part = warp / kOutParts;
const int me = MAMBA_GROUP_X;
const int all = MAMBA_GROUPS_X;
const int in_passes = (batch + kInRows - 1) / kInRows;
const int out_passes = (batch + kOutRows - 1) / kOutRows;
const int out_tasks = (width + 8 * kOutTiles - 1) / (8 * kOutTiles);
const int squares_apart = out_tasks * kOutChunks;  // parts of a row's sum of squares
