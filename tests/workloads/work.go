package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"time"
)

func main() {
	jobs, results := make(chan int), make(chan [32]byte)
	for worker := 0; worker < 4; worker++ {
		go func() {
			for n := range jobs {
				sum := sha256.Sum256([]byte(fmt.Sprint(n)))
				for k := 0; k < 20000; k++ {
					sum = sha256.Sum256(sum[:])
				}
				results <- sum
			}
		}()
	}
	log, _ := os.Create("log")
	tick := time.NewTicker(100 * time.Millisecond)
	for n := 0; n < 80; n++ {
		go func() { jobs <- n }()
		sum := <-results
		fmt.Printf("step %d %x\n", n, sum[:8])
		fmt.Fprintln(log, n)
		<-tick.C
	}
	os.Exit(0)
}
