// Matrices of floats in memory that a CPU reads quickly.
#pragma once

#include "mamba/models/mamba.h"

namespace mamba::models {

// Copies every matrix of floats that lies in a mapped file into memory of this process' own, in large pages: a step of
// generation reads all of them, and the small pages of a file cost a third of its speed. One matrix after another, and
// the file's pages go as each is done, so memory never holds two of them twice. Leaves them where they are small. Ends
// in prepare().
void move_to_large_pages(MambaLM& model);

}  // namespace mamba::models
