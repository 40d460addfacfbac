// The normal operator along one axis, or along two, for lengths that are known when this is compiled: RECON_N and its
// RECON_RADICES (kernels/fourier.py chooses them), strips of 1 << RECON_SHIFT columns, blocks of RECON_THREADS.
//
// The first pass takes its values from the image and the last adds its own to the sum, so that a strip goes through
// shared memory once for each pass between two of them and no more. k-space stays in the order in which the passes
// leave it, and so do the weights. Coils are added in their order: two runs give the same bits.
#include "radix.h"
#include "task.h"

#ifndef RECON_N
#define RECON_N 320
#define RECON_RADICES 16, 20
#define RECON_SHIFT 3
#define RECON_THREADS 160
#endif
// Blocks that a multiprocessor is to hold at least.
#ifndef RECON_RESIDENT
#define RECON_RESIDENT 1
#endif

using recon::small_dft;
using recon::Task;
using recon::turned;
using recon::Value;

constexpr int N = RECON_N, SHIFT = RECON_SHIFT, WIDTH = 1 << SHIFT, THREADS = RECON_THREADS;
constexpr int RADICES[] = {RECON_RADICES};
constexpr int PASSES = sizeof RADICES / sizeof RADICES[0];

RECON_CONSTANT int span(int pass) {
    int n = N;
    for (int i = 0; i < pass; ++i) n /= RADICES[i];
    return n;
}
// Where the twiddles of a pass start in the table.
RECON_CONSTANT int twiddles(int pass) {
    int at = 0;
    for (int i = 0; i < pass; ++i) at += span(i + 1) * (RADICES[i] - 1) + RADICES[i];
    return 2 * at;
}
// Columns start in banks of their own where the threads of half a warp take neighbouring rows of all columns.
RECON_CONSTANT int pitch() {
    int p = N;
    while (p % 16 != (16 >> SHIFT) % 16) ++p;
    return p;
}

// One pass: butterflies of a strip, of which a thread takes every THREADS-th. `load(i, row)` gives and `store(i, row, v)`
// takes the value of a row of the thread's column; i counts the values of one butterfly.
template <int pass>
struct Pass {
    static constexpr int R = RADICES[pass], SPAN = span(pass), M = SPAN / R, COUNT = (N / R) << SHIFT;
    static constexpr int TABLE = twiddles(pass);

    template <class Load, class Store>
    static RECON_INLINE void forward(const float* table, int b, Load load, Store store) {
        const int j = b % M, start = b / M * SPAN;
        Value a[R];
#pragma unroll
        for (int k = 0; k < R; ++k) a[k] = load(k, start + j + k * M);
        small_dft<-1, R>(a);
        const float* w = table + TABLE + 2 * j * (R - 1);
#pragma unroll
        for (int k = 0; k < R; ++k)
            store(k, start + j + k * M, M == 1 || k == 0 ? a[k] : turned(a[k], w[2 * k - 2], w[2 * k - 1]));
    }
    template <class Load, class Store>
    static RECON_INLINE void backward(const float* table, int b, Load load, Store store) {
        const int j = b % M, start = b / M * SPAN;
        const float* w = table + TABLE + 2 * j * (R - 1);
        Value a[R];
#pragma unroll
        for (int k = 0; k < R; ++k) {
            a[k] = load(k, start + j + k * M);
            if (M > 1 && k > 0) a[k] = turned(a[k], w[2 * k - 2], -w[2 * k - 1]);
        }
        small_dft<1, R>(a);
#pragma unroll
        for (int k = 0; k < R; ++k) store(k, start + j + k * M, a[k]);
    }
    // Calls f(butterfly) for each of the thread's own.
    template <class F>
    static RECON_INLINE void each(F f) {
#pragma unroll
        for (int i = 0; i < (COUNT + THREADS - 1) / THREADS; ++i) {
            const int at = threadIdx.x + i * THREADS;
            if (COUNT % THREADS == 0 || at < COUNT) f(at >> SHIFT);
        }
    }
};

using First = Pass<0>;
using Last = Pass<PASSES - 1>;
static_assert(First::COUNT <= THREADS, "a thread holds one butterfly of the first pass");

// The thread's column in shared memory.
RECON_INLINE Value* own_column(double* memory) {
    return reinterpret_cast<Value*>(memory) + (threadIdx.x & (WIDTH - 1)) * pitch();
}

// Passes from `pass` to before `end` forward, in shared memory.
template <int pass, int end>
RECON_INLINE void forward(Value* s, const float* table) {
    if constexpr (pass < end) {
        Pass<pass>::each([&](int b) {
            Pass<pass>::forward(table, b, [&](int, int row) { return s[row]; }, [&](int, int row, Value v) { s[row] = v; });
        });
        __syncthreads();
        forward<pass + 1, end>(s, table);
    }
}

// Passes from before `pass` down to `end` backward.
template <int pass, int end>
RECON_INLINE void backward(Value* s, const float* table) {
    if constexpr (pass > end) {
        using P = Pass<pass - 1>;
        P::each([&](int b) {
            P::backward(table, b, [&](int, int row) { return s[row]; }, [&](int, int row, Value v) { s[row] = v; });
        });
        __syncthreads();
        backward<pass - 1, end>(s, table);
    }
}

// The last pass forward, the weights and the same pass backward, in registers; between `load` and `store`.
template <class Load, class Store>
RECON_INLINE void weigh(const float* table, const float* weights, int b, Load load, Store store) {
    Value a[Last::R];
    Last::forward(table, b, load, [&](int k, int row, Value v) { a[k] = {v.re * weights[row], v.im * weights[row]}; });
    Last::backward(table, b, [&](int k, int) { return a[k]; }, store);
}

// F^-1 w F of a strip: `load` gives what goes in, `store` takes what comes out.
template <class Load, class Store>
RECON_INLINE void filter(Value* s, const float* table, const float* weights, bool works, Load load, Store store) {
    const int b = threadIdx.x >> SHIFT;
    if constexpr (PASSES == 1) {
        if (works) weigh(table, weights, b, load, store);
    } else {
        if (works) First::forward(table, b, load, [&](int, int row, Value v) { s[row] = v; });
        __syncthreads();
        forward<1, PASSES - 1>(s, table);
        Last::each([&](int own) {
            weigh(table, weights, own, [&](int, int row) { return s[row]; }, [&](int, int row, Value v) { s[row] = v; });
        });
        __syncthreads();
        backward<PASSES - 1, 1>(s, table);
        // A thread reads what it writes next: no barrier before another strip.
        if (works) First::backward(table, b, [&](int, int row) { return s[row]; }, store);
    }
}

// out[group] = sum over its coils of conj(S) F^-1 w F S x along y; x (item, z, y, x), maps (item or 1, coil, z, y, x),
// weights (item or 1, z or 1, N) in the order of the passes and scaled, out (group, item, z, y, x), N >= ny.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_normal(const Value* __restrict__ x, const Value* __restrict__ maps, const float* __restrict__ weights, Value* out,
               const float* __restrict__ table, int items, int map_items, int weight_items, int weight_planes, int coils,
               int nz, int ny, int nx, int per_group) {
    extern __shared__ double shared_memory[];
    const Task t(map_items, 1, coils, nz, ny, nx, WIDTH, per_group);
    const int column = threadIdx.x & (WIDTH - 1);
    const bool works = (THREADS == First::COUNT || threadIdx.x < First::COUNT) && t.inside(column);
    const float* w = recon::weights_of(t, weights, weight_items, weight_planes, N);
    const Value* image = x + t.voxel(0, 0) + column;
    Value sum[First::R];
#pragma unroll
    for (int k = 0; k < First::R; ++k) sum[k] = {0, 0};
    for (int coil = t.first; coil < t.last; ++coil) {
        const Value* map = maps + t.map(0, coil, 0) + column;
        filter(
            own_column(shared_memory), table, w, works,
            [&](int, int y) { return y < ny ? recon::times(map[y * nx], image[y * nx]) : Value{0, 0}; },
            [&](int k, int y, Value v) {
                if (y < ny) sum[k] = sum[k] + recon::conj_times(map[y * nx], v);
            });
    }
    Value* to = out + t.group * (long long)(items) * nz * ny * nx + t.voxel(0, 0) + column;
    const int j = threadIdx.x >> SHIFT;
    if (works)
#pragma unroll
        for (int k = 0; k < First::R; ++k)
            if (j + k * First::M < ny) to[(j + k * First::M) * nx] = sum[k];
}

// What follows is the normal operator along z and y of some columns of a volume, in three launches: along y for every
// coil and plane, along z, and along y back into the sum. Work space k (coil, z, N, wide) holds `wide` columns from x0 on.
// x and maps are (z, y, x) and (coil, z, y, x).

// k = F S x along y. Blocks count strips, planes, coils.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_spread(const Value* __restrict__ x, const Value* __restrict__ maps, Value* k, const float* __restrict__ table,
               int nz, int ny, int nx, int x0, int wide) {
    extern __shared__ double shared_memory[];
    const int strips = (wide + WIDTH - 1) / WIDTH, plane = blockIdx.x / strips, z = plane % nz;
    const int column = int(blockIdx.x % strips) * WIDTH + (threadIdx.x & (WIDTH - 1));
    const bool inside = column < wide && x0 + column < nx;
    const Value* image = x + (long long)(z) * ny * nx + x0 + column;
    const Value* map = maps + (long long)(plane) * ny * nx + x0 + column;
    Value *s = own_column(shared_memory), *to = k + (long long)(plane) * N * wide + column;
    auto product = [&](int, int y) { return y < ny ? recon::times(map[y * nx], image[y * nx]) : Value{0, 0}; };
    auto keep = [&](int, int row, Value v) { s[row] = v; };
    auto out = [&](int, int row, Value v) { to[row * wide] = v; };
    const bool works = threadIdx.x < First::COUNT && inside;
    if constexpr (PASSES == 1) {
        if (works) First::forward(table, threadIdx.x >> SHIFT, product, out);
    } else {
        if (works) First::forward(table, threadIdx.x >> SHIFT, product, keep);
        __syncthreads();
        forward<1, PASSES - 1>(s, table);
        if (inside) Last::each([&](int b) { Last::forward(table, b, [&](int, int row) { return s[row]; }, out); });
    }
}

// k = F^-1 w F k along z, in place; weights (y, N) in the order of the passes. Blocks count strips, y, coils.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_filter(Value* k, const float* __restrict__ weights, const float* __restrict__ table, int nz, int ky, int wide) {
    extern __shared__ double shared_memory[];
    const int strips = (wide + WIDTH - 1) / WIDTH, y = blockIdx.x / strips % ky, coil = blockIdx.x / strips / ky;
    const int column = int(blockIdx.x % strips) * WIDTH + (threadIdx.x & (WIDTH - 1));
    Value* own = k + ((long long)(coil) * nz * ky + y) * wide + column;
    const long long step = (long long)(ky) * wide;
    filter(
        own_column(shared_memory), table, weights + (long long)(y) * N, threadIdx.x < First::COUNT && column < wide,
        [&](int, int z) { return z < nz ? own[z * step] : Value{0, 0}; },
        [&](int, int z, Value v) {
            if (z < nz) own[z * step] = v;
        });
}

// out = sum over coils of conj(S) F^-1 k along y. Blocks count strips, planes.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_gather(const Value* __restrict__ k, const Value* __restrict__ maps, Value* out, const float* __restrict__ table,
               int coils, int nz, int ny, int nx, int x0, int wide) {
    extern __shared__ double shared_memory[];
    const int strips = (wide + WIDTH - 1) / WIDTH, z = blockIdx.x / strips;
    const int column = int(blockIdx.x % strips) * WIDTH + (threadIdx.x & (WIDTH - 1)), j = threadIdx.x >> SHIFT;
    const bool inside = column < wide && x0 + column < nx, works = threadIdx.x < First::COUNT && inside;
    Value* s = own_column(shared_memory);
    Value sum[First::R];
#pragma unroll
    for (int i = 0; i < First::R; ++i) sum[i] = {0, 0};
    for (int coil = 0; coil < coils; ++coil) {
        const long long plane = (long long)(coil) * nz + z;
        const Value *map = maps + plane * ny * nx + x0 + column, *from = k + plane * N * wide + column;
        auto load = [&](int, int row) { return from[row * wide]; };
        auto add = [&](int i, int y, Value v) {
            if (y < ny) sum[i] = sum[i] + recon::conj_times(map[y * nx], v);
        };
        if constexpr (PASSES == 1) {
            if (works) First::backward(table, j, load, add);
        } else {
            if (inside)
                Last::each([&](int b) { Last::backward(table, b, load, [&](int, int row, Value v) { s[row] = v; }); });
            __syncthreads();
            backward<PASSES - 1, 1>(s, table);
            if (works) First::backward(table, j, [&](int, int row) { return s[row]; }, add);
            __syncthreads();
        }
    }
    Value* to = out + (long long)(z) * ny * nx + x0 + column;
    if (works)
#pragma unroll
        for (int i = 0; i < First::R; ++i)
            if (j + i * First::M < ny) to[(j + i * First::M) * nx] = sum[i];
}
