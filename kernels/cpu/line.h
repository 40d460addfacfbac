// The centred Fourier transform of a line of any length, for LANES neighbouring columns at once.
//
// A length with a prime factor above 13 is computed by convolution (L. I. Bluestein, IEEE Trans. Audio Electroacoust.
// 18, 1970). With n and k counted from the middle, 2nk = n² + k² − (k − n)², so that
//
//     X(k) = g(k) sum_n conj g(k − n) g(n) x(n),    g(n) = exp(−iπ n² / N),
//
// where the sum is a circular convolution of the next length M ≥ 2N − 1 without a prime factor above 5.
#pragma once

#include <algorithm>
#include <memory>

#include "columns.h"

namespace recon {

// Index of centred sample n of N in the order of an FFT, and the inverse.
inline int uncentred(int n, int N) { return n >= N / 2 ? n - N / 2 : n - N / 2 + N; }
inline int centred(int f, int N) { return f < N - N / 2 ? f + N / 2 : f + N / 2 - N; }

struct Line {
    int n;
    std::shared_ptr<const Plan> fft;
    std::vector<float> turns, spectrum;  // g, and the spectrum of conj g in the order of the plan; empty if not needed

    explicit Line(int length) : n(length), fft(plan(length)) {
        if (fft->n) return;
        int m = 2 * n - 1;
        for (;; ++m) {
            int rest = m;
            for (int r : {2, 3, 5})
                for (; rest % r == 0; rest /= r) {}
            if (rest == 1) break;
        }
        fft = plan(m);
        auto turn = [this](long k) {
            const double angle = -3.14159265358979323846 / n * double(k * k % (2L * n));
            return std::complex<double>(std::cos(angle), std::sin(angle));
        };
        for (int k = 0; k < n; ++k) {
            const auto g = turn(k - n / 2);
            turns.push_back(float(g.real())), turns.push_back(float(g.imag()));
        }
        std::vector<std::complex<double>> roots(m), waves(n);
        for (int k = 0; k < m; ++k) roots[k] = std::polar(1.0, -2 * 3.14159265358979323846 * k / m);
        for (int k = 0; k < n; ++k) waves[k] = std::conj(turn(k));
        for (int p = 0; p < m; ++p) {
            const long f = fft->frequency[p];
            std::complex<double> sum = waves[0];
            for (long k = 1; k < n; ++k) sum += 2 * roots[f * k % m].real() * waves[k];  // conj g is even
            spectrum.push_back(float(sum.real() / m)), spectrum.push_back(float(sum.imag() / m));
        }
    }
    int room() const { return fft->n; }
};

// The line for a length, created once.
inline std::shared_ptr<const Line> line(int n) {
    static std::map<int, std::shared_ptr<const Line>> known;
    static std::mutex lock;
    std::lock_guard<std::mutex> held(lock);
    if (known.size() > 64) known.clear();
    auto& found = known[n];
    if (!found) found = std::make_shared<const Line>(n);
    return found;
}

// From in(n) to out(k, value), both counted from 0 on centred lines, not scaled; sign = -1 forward and 1 backward.
// `rows` is room for l.room(). Memory is read and written row by row, because butterflies would access it in large
// strides.
template <int sign, class In, class Out>
inline void transform(const Line& l, Row* rows, In in, Out out) {
    const Plan& f = *l.fft;
    const int n = l.n;
    if (!l.turns.empty()) {
        const float *g = l.turns.data(), *s = l.spectrum.data();
        auto turn = [g](int i, Row v) { return turned(v, g[2 * i], sign < 0 ? g[2 * i + 1] : -g[2 * i + 1]); };
        for (int i = 0; i < n; ++i) rows[i] = turn(i, in(i));
        std::fill(rows + n, rows + f.n, zero());
        forward(f, rows);
        for (int p = 0; p < f.n; ++p) rows[p] = turned(rows[p], s[2 * p], sign < 0 ? s[2 * p + 1] : -s[2 * p + 1]);
        backward(f, rows);
        for (int i = 0; i < n; ++i) out(i, turn(i, rows[i]));
    } else if (sign < 0) {
        for (int i = 0; i < n; ++i) rows[uncentred(i, n)] = in(i);
        forward(f, rows);
        for (int p = 0; p < n; ++p) out(centred(f.frequency[p], n), rows[p]);
    } else {
        for (int p = 0; p < n; ++p) rows[p] = in(centred(f.frequency[p], n));
        backward(f, rows);
        for (int i = 0; i < n; ++i) out(i, rows[uncentred(i, n)]);
    }
}

}  // namespace recon
