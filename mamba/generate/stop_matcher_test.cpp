#include "mamba/generate/stop_matcher.h"

#include <gtest/gtest.h>

namespace mamba::generate {
namespace {

// What is shown when `text` comes in pieces of `size` bytes.
std::string shown(const std::vector<std::string>& stops, const std::string& text, size_t size, bool* found = nullptr) {
  StopMatcher matcher(stops);
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) {
    out += matcher.push(text.substr(i, size));
  }
  if (!matcher.found()) {
    out += matcher.finish();
  }
  if (found != nullptr) {
    *found = matcher.found();
  }
  return out;
}

TEST(StopMatcher, CutsAtTheFirstMatchHoweverTheTextArrives) {
  for (size_t size = 1; size < 12; ++size) {
    bool found = false;
    EXPECT_EQ(shown({"\n\n", "END"}, "one\ntwo EN\n\nmore END", size, &found), "one\ntwo EN") << size;
    EXPECT_TRUE(found);
    EXPECT_EQ(shown({"aab"}, "aaab", size, &found), "a");
    EXPECT_TRUE(found);
    EXPECT_EQ(shown({"xyz"}, "wxyxyx", size, &found), "wxyxyx");
    EXPECT_FALSE(found);
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatCouldBecomeAMatch) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.push("go st"), "go ");
  EXPECT_EQ(matcher.push("ay"), "stay");
  EXPECT_EQ(matcher.push("!"), "!");
  EXPECT_EQ(matcher.push("sto"), "");
  EXPECT_EQ(matcher.finish(), "sto");
}

TEST(StopMatcher, WithoutStopsEverythingPasses) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_FALSE(matcher.found());
}

}  // namespace
}  // namespace mamba::generate
