// Between gpu_step.h or gpu_many.h and their phases: the arrays that phases hand on to one another.
// What lies in `numbers`, each row by row: the products' left sides, and z.
const int64_t wide = int64_t(batch) * channels;
const auto x = numbers;
const auto u = x + int64_t(batch) * width;
const auto z = u + wide;
const auto y = z + wide;
const auto dt_rows = y + wide;
// And in `floats`: B and C, then the squares' parts.
const auto B_C = floats;
const auto squares = B_C + int64_t(batch) * 2 * states;
