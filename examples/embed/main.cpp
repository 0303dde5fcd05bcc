// Text from a Mamba model, in a program of your own: embed MODEL PROMPT
//
// MODEL is a folder with a checkpoint or a name on the hub, such as state-spaces/mamba-130m.
#include <exception>
#include <iostream>
#include <string>

#include "mamba/generate/generator.h"
#include "mamba/generate/load.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: embed MODEL PROMPT\n";
    return 2;
  }
  try {
    auto loaded = mamba::generate::load(argv[1]);
    if (!loaded.tokenizer) {
      std::cerr << "embed: " << argv[1] << " has no tokenizer\n";
      return 1;
    }

    mamba::generate::Request request;
    request.prompt = loaded.tokenizer->encode(argv[2]);
    request.sampling.temperature = 0.8f;
    request.sampling.seed = 1;
    request.max_tokens = 100;

    mamba::generate::Callbacks callbacks;
    callbacks.on_text = [](size_t, const std::string& piece) { std::cout << piece << std::flush; };

    std::cout << argv[2];
    mamba::generate::generate(loaded.model, loaded.tokenizer.get(), {request}, callbacks);
    std::cout << '\n';
  } catch (const std::exception& e) {
    std::cerr << "embed: " << e.what() << '\n';
    return 1;
  }
}
