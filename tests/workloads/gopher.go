// Goroutines in optimised Go, which keeps frame pointers wherever a function has a frame.
package main

import "time"

var sink [2]int

// The array gives the leaf a frame.
//
//go:noinline
func burn(iterations int) int {
	var counts [64]int
	for i := 0; i < iterations; i++ {
		counts[i&63] += i
	}
	return counts[iterations&63]
}

//go:noinline
func middle(iterations int) int { return burn(iterations) + 1 }

func workEven() {
	for {
		sink[0] += middle(20000) + 1
	}
}

func workOdd() {
	for {
		sink[1] += middle(20000) + 2
	}
}

func main() {
	go workEven()
	go workOdd()
	// A workload whose test has died must not burn for ever.
	time.Sleep(120 * time.Second)
}
