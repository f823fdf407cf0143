// main() of the test programs: GoogleTest's, but where every test that ran was skipped the whole is
// skipped too (77, which ctest knows), not passed.
#include <gtest/gtest.h>

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  ::testing::InitGoogleTest(&argc, argv);
  const int code = RUN_ALL_TESTS();
  const ::testing::UnitTest& all = *::testing::UnitTest::GetInstance();
  const int skipped = all.skipped_test_count();
  return code == 0 && skipped > 0 && skipped == all.test_to_run_count() ? kSkipped : code;
}
