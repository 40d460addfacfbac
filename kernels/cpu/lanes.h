// LANES numbers at once, and values of a line at LANES nearby positions.
#pragma once

#include "vectors.h"

namespace recon {

typedef int Ints __attribute__((vector_size(LANES * sizeof(int))));

constexpr int PAD = 4 * LANES;  // zeros on both sides of every line read by vectors

inline Lanes broadcast(float a) { return Lanes{} + a; }
inline Lanes number() {
    Lanes v;
    for (int l = 0; l < LANES; ++l) v[l] = float(l);
    return v;
}
inline Ints truncate(Lanes v) { return __builtin_convertvector(v, Ints); }
inline Lanes real(Ints v) { return __builtin_convertvector(v, Lanes); }
inline Ints floored(Lanes v) {
    Ints n = truncate(v);
    return n + (real(n) > v);  // a true comparison gives -1
}
inline int floored(float v) {
    int n = int(v);
    return n - (float(n) > v);
}
inline Lanes least(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes most(Lanes a, Lanes b) { return a > b ? a : b; }
inline Lanes magnitude(Lanes a) { return most(a, -a); }

// The values at `n` of a line: from SPAN vectors already read, 0 <= n < SPAN LANES; FAR: any n within the padding.
constexpr int FAR = 0;

template <int span>
struct Values {
    Lanes v[span ? span : 1];
    const float* line;
    explicit Values(const float* p) : line(p) {
        for (int k = 0; k < span; ++k) v[k] = take(p + k * LANES);
    }
    Lanes at(Ints n) const {
        if constexpr (span == FAR) {
            Lanes out;
            for (int l = 0; l < LANES; ++l) out[l] = line[n[l]];
            return out;
        } else if constexpr (span == 2) {
            return __builtin_shuffle(v[0], v[1], n);
        } else {
            return n < 2 * LANES ? __builtin_shuffle(v[0], v[1], n) : __builtin_shuffle(v[2], v[3], n);
        }
    }
};

// How many vectors contain positions up to `width` apart.
inline int vectors(float width) { return width < 2 * LANES - 1 ? 2 : width < 4 * LANES - 1 ? 4 : FAR; }

inline Lanes arctangent(Lanes t) {
    const Lanes size = magnitude(t);
    const auto steep = size > 2.414213562f, middle = size > 0.4142135624f;
    Lanes x = steep ? -1.0f / size : middle ? (size - 1.0f) / (size + 1.0f) : size;
    Lanes from = steep ? broadcast(1.5707963268f) : middle ? broadcast(0.7853981634f) : Lanes{};
    // An odd polynomial on |x| <= tan(pi/8)
    Lanes z = x * x;
    Lanes y = from + (x + x * z * (-0.333329491539f + z * (0.199777106478f + z * (-0.138776856032f + z * 0.0805374449538f))));
    return t < 0.0f ? -y : y;
}

}  // namespace recon
