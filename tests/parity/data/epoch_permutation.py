#!/usr/bin/env python3
"""The permutations that tests/data/packed_stream_test.cpp expects, by the rule in the docstring of dapt::epoch_permutation.

usage: epoch_permutation.py COUNT SEED EPOCH      (std::mt19937_64 is written out below; standard library only)
"""
import sys

MASK = (1 << 64) - 1


class Mt19937_64:  # Nishimura 2000; the constants of std::mt19937_64
    def __init__(self, seed):
        self.state = [seed]
        for i in range(1, 312):
            last = self.state[-1]
            self.state.append((6364136223846793005 * (last ^ (last >> 62)) + i) & MASK)
        self.next = 312

    def __call__(self):
        if self.next == 312:
            s = self.state
            for i in range(312):
                x = (s[i] & 0xFFFFFFFF80000000) | (s[(i + 1) % 312] & 0x7FFFFFFF)
                s[i] = s[(i + 156) % 312] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
            self.next = 0
        x = self.state[self.next]
        self.next += 1
        x ^= (x >> 29) & 0x5555555555555555
        x ^= (x << 17) & 0x71D67FFFEDA60000
        x ^= (x << 37) & 0xFFF7EEE000000000
        return x ^ (x >> 43)


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def epoch_permutation(count, seed, epoch):
    draw = Mt19937_64(splitmix64((seed + epoch * 0x9E3779B97F4A7C15) & MASK))
    order = list(range(count))
    for i in range(count, 1, -1):
        limit = MASK // i * i
        while (x := draw()) >= limit:
            pass
        order[i - 1], order[x % i] = order[x % i], order[i - 1]
    return order


if __name__ == "__main__":
    generator = Mt19937_64(5489)
    for _ in range(9999):
        generator()
    assert generator() == 9981545732273789042  # the C++ standard's check value
    print(epoch_permutation(*map(int, sys.argv[1:])))
