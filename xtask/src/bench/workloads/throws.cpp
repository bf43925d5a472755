// C++ that throws through 40 frames and sorts, hashes and builds strings in between. Never ends.
#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Guard {
	unsigned &open;
	explicit Guard(unsigned &counter) : open(counter) { open++; }
	~Guard() { open--; }
};

[[gnu::noinline]] unsigned descend(unsigned left, unsigned &open, const std::string &why)
{
	// Something to destroy in every frame that the exception passes.
	Guard guard(open);
	std::string own = why + std::to_string(left);
	if (left == 0)
		throw std::runtime_error(own);
	return descend(left - 1, open, why) + static_cast<unsigned>(own.size());
}

[[gnu::noinline]] unsigned throw_and_catch(unsigned seed)
{
	unsigned open = 0;
	try {
		return descend(40, open, "reason ");
	} catch (const std::exception &error) {
		return seed + open + static_cast<unsigned>(std::string(error.what()).size());
	}
}

[[gnu::noinline]] unsigned containers(unsigned seed)
{
	std::vector<std::string> words;
	std::map<std::string, unsigned> counts;
	for (unsigned i = 0; i < 400; i++) {
		seed = seed * 1664525 + 1013904223;
		words.push_back(std::to_string(seed % 1000));
		counts[words.back()]++;
	}
	std::sort(words.begin(), words.end(), [](const auto &a, const auto &b) { return a > b; });
	return static_cast<unsigned>(words.front().size() + counts.size());
}

void work()
{
	for (unsigned seed = 1;;) {
		for (unsigned i = 0; i < 10; i++)
			seed += throw_and_catch(seed);
		seed += containers(seed);
	}
}

} // namespace

int main()
{
	std::thread second(work);
	work();
}
