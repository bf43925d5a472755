// A load for the benchmark: goroutines that recurse, sort, format, talk over channels and make garbage. Never ends.
package main

import (
	"fmt"
	"sort"
	"strings"
)

//go:noinline
func recurse(left int, seed uint64) uint64 {
	local := [4]uint64{seed, seed ^ 7, seed << 3, uint64(left)}
	if left == 0 {
		return seed
	}
	return recurse(left-1, local[seed%4]+1)*31 + local[left%4]
}

func work(seed uint64, results chan<- int) {
	for ; ; seed++ {
		for turn := uint64(0); turn < 200; turn++ {
			recurse(50, seed+turn)
		}
		words := make([]string, 0, 300)
		counts := make(map[string]int)
		for i := uint64(0); i < 300; i++ {
			word := fmt.Sprintf("%d-%s", (seed*i)%977, strings.Repeat("x", int(i%17)))
			words = append(words, word)
			counts[word]++
		}
		sort.Slice(words, func(a, b int) bool { return words[a] < words[b] })
		results <- len(counts)
	}
}

func main() {
	results := make(chan int)
	for seed := uint64(1); seed <= 2; seed++ {
		go work(seed, results)
	}
	sum := 0
	for result := range results {
		sum += result
	}
	fmt.Println(sum)
}
