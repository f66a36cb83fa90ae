// Exceptions through threads and thread-local objects with destructors.
#include <chrono>
#include <cstdio>
#include <future>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
struct Local {
    std::map<int, std::string> seen;
    ~Local() { std::printf("local of %zu\n", seen.size()); std::fflush(stdout); }
};
thread_local Local local;
static int deep(int n) {
    auto owned = std::make_unique<int>(n);
    if (n % 7 == 0) throw std::runtime_error("seven " + std::to_string(*owned));
    return n < 100 ? deep(n + 1) : *owned;
}
static std::string work(int n) {
    try {
        local.seen[n] = std::to_string(deep(n));
    } catch (const std::exception &error) {
        local.seen[n] = error.what();
    }
    return local.seen[n];
}
int main() {
    for (int n = 0; n < 80; n++) {
        auto other = std::async(std::launch::async, work, n);
        std::printf("step %d %s %s\n", n, work(n + 3).c_str(), other.get().c_str());
        std::fflush(stdout);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
}
