// The normal operator along z and y of some columns of a volume, in three launches: along y for every coil and plane,
// along z, and along y back into the sum. Work space k (coil, z, N, wide) holds `wide` columns from x0 on. x and maps
// are (z, y, x) and (coil, z, y, x). Coils are added in order: two runs give the same bits.
#include "planned.h"

#ifndef RECON_WIDE
#define RECON_WIDE 16
#endif
constexpr int WIDE = RECON_WIDE, STRIPS = (WIDE + WIDTH - 1) / WIDTH;

// k = F S x along y. Blocks count strips, planes, coils.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_spread(const Value* __restrict__ x, const Value* __restrict__ maps, Value* k, const Value* __restrict__ table,
               int nz, int x0) {
    extern __shared__ double shared_memory[];
    const int plane = blockIdx.x / STRIPS, z = plane % nz, j = threadIdx.x >> SHIFT;
    const int column = int(blockIdx.x % STRIPS) * WIDTH + (threadIdx.x & (WIDTH - 1));
    const bool inside = column < WIDE && x0 + column < STRIDE, works = threadIdx.x < First::COUNT && inside;
    constexpr int STEP = First::M * STRIDE;
    const Value* image = x + (long long)(z) * ROWS * STRIDE + j * STRIDE + x0 + column;
    const Value* map = maps + (long long)(plane) * ROWS * STRIDE + j * STRIDE + x0 + column;
    Value *s = own_column(shared_memory), *to = k + (long long)(plane) * N * WIDE + column;
    auto product = [&](int i, int) { return within(j, i) ? recon::times(map[i * STEP], image[i * STEP]) : Value{0, 0}; };
    auto keep = [&](int, int row, Value v) { s[row] = v; };
    auto out = [&](int, int row, Value v) { to[row * WIDE] = v; };
    if constexpr (PASSES == 1) {
        if (works) First::forward(table, j, product, out);
    } else {
        if (works) First::forward(table, j, product, keep);
        __syncthreads();
        forward<1, PASSES - 1>(s, table);
        if (inside) Last::each([&](int b) { Last::forward(table, b, [&](int, int row) { return s[row]; }, out); });
    }
}

// k = F^-1 w F k along z, in place: here columns are those of k, STRIDE = ky * WIDE; weights (y, N) in the order of the
// passes. Blocks count strips, y, coils.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_filter(Value* k, const float* __restrict__ weights, const Value* __restrict__ table) {
    extern __shared__ double shared_memory[];
    constexpr int KY = STRIDE / WIDE, STEP = First::M * STRIDE;
    const int y = blockIdx.x / STRIPS % KY, coil = blockIdx.x / STRIPS / KY, j = threadIdx.x >> SHIFT;
    const int column = int(blockIdx.x % STRIPS) * WIDTH + (threadIdx.x & (WIDTH - 1));
    Value* own = k + (long long)(coil) * ROWS * STRIDE + j * STRIDE + y * WIDE + column;
    filter(
        own_column(shared_memory), table, weights + (long long)(y) * N, threadIdx.x < First::COUNT && column < WIDE, 0,
        [&](int i, int) { return within(j, i) ? own[i * STEP] : Value{0, 0}; },
        [&](int i, int, Value v) {
            if (within(j, i)) own[i * STEP] = v;
        });
}

// out = sum over coils of conj(S) F^-1 k along y. Blocks count strips, planes.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_gather(const Value* __restrict__ k, const Value* __restrict__ maps, Value* out, const Value* __restrict__ table,
               int coils, int nz, int x0) {
    extern __shared__ double shared_memory[];
    const int z = blockIdx.x / STRIPS, j = threadIdx.x >> SHIFT;
    const int column = int(blockIdx.x % STRIPS) * WIDTH + (threadIdx.x & (WIDTH - 1));
    const bool inside = column < WIDE && x0 + column < STRIDE, works = threadIdx.x < First::COUNT && inside;
    constexpr int STEP = First::M * STRIDE;
    const long long place = (long long)(z) * ROWS * STRIDE + j * STRIDE + x0 + column;
    const Value *map = maps + place, *from = k + (long long)(z) * N * WIDE + column;
    Value* s = own_column(shared_memory);
    Value sum[First::R];
#pragma unroll
    for (int i = 0; i < First::R; ++i) sum[i] = {0, 0};
    for (int coil = 0; coil < coils; ++coil) {
        auto load = [&](int, int row) { return from[row * WIDE]; };
        auto add = [&](int i, int, Value v) {
            if (within(j, i)) sum[i] = sum[i] + recon::conj_times(map[i * STEP], v);
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
        map += (long long)(nz) * ROWS * STRIDE;
        from += (long long)(nz) * N * WIDE;
    }
    if (works)
#pragma unroll
        for (int i = 0; i < First::R; ++i)
            if (within(j, i)) out[place + i * STEP] = sum[i];
}
