#include "mamba/models/module_names.h"

#include <gtest/gtest.h>

#include "mamba/base/error.h"

namespace mamba::models {
namespace {

TEST(ModulePattern, MustMatchTheWholePath) {
  const std::string path = "backbone.layers.12.mixer.in_proj";
  EXPECT_TRUE(ModulePattern(R"(.*\.in_proj)").matches(path));
  EXPECT_FALSE(ModulePattern("in_proj").matches(path));
  EXPECT_FALSE(ModulePattern(R"(backbone\.layers)").matches(path));
  EXPECT_TRUE(ModulePattern(R"(.*\.(?P<layer>\d+)\.mixer\.(in|x)_proj)").matches(path));
  // The first alternative matches, but only the second reaches the end.
  EXPECT_TRUE(ModulePattern("backbone|backbone.layers.12.mixer.in_proj").matches(path));
  EXPECT_TRUE(ModulePattern("^backbone.*$").matches(path));
  EXPECT_TRUE(ModulePattern(R"(backbone\.layers\.(?!3\.)\d+\.mixer\.in_proj)").matches(path));
}

TEST(ModulePattern, SaysWhatIsWrong) {
  for (const char* source : {"(", "a)(b", "[", "*", "(?P<n"}) {
    EXPECT_THROW(ModulePattern{source}, UsageError) << source;
  }
  EXPECT_THROW(ModulePattern(std::string(5000, 'a')), UsageError);
}

TEST(ModulePattern, EndsWhateverTheExpression) {
  const ModulePattern pattern("(a|a|ab|b)*(a|b)*(a|b|ab)*c");
  EXPECT_THROW(pattern.matches(std::string(200, 'a')), Error);
}

TEST(ModuleSelection, NamesMeanEndsOfPaths) {
  const std::vector<std::string> paths = {"backbone.layers.0.mixer.in_proj", "backbone.layers.1.mixer.in_proj",
                                          "backbone.layers.1.mixer.x_proj", "my_in_proj"};
  EXPECT_EQ(ModuleSelection{.names = {"in_proj"}}.select(paths).size(), 2u);
  EXPECT_EQ(ModuleSelection{.names = {"1.mixer.in_proj"}}.select(paths), std::vector<std::string>{paths[1]});
  EXPECT_EQ(ModuleSelection{.names = {paths[2]}}.select(paths), std::vector<std::string>{paths[2]});
  EXPECT_EQ(ModuleSelection{.pattern = R"(.*1\..*)"}.select(paths).size(), 2u);
  EXPECT_TRUE(ModuleSelection{}.select(paths).empty());
}

}  // namespace
}  // namespace mamba::models
