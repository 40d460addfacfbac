// The normal operator along y by transforms that are compiled for one length and one shape of the image (planned.h).
// Coils are added in order: two runs give the same bits.
#include "planned.h"
#include "task.h"

using recon::Task;

// out[group] = sum over its coils of conj(S) F^-1 w F S x along y; x (item, z, y, x), maps (item or 1, coil, z, y, x),
// weights (item or 1, z or 1, N) in the order of the passes and scaled, out (group, item, z, y, x), N >= y.
extern "C" __global__ void __launch_bounds__(RECON_THREADS, RECON_RESIDENT)
planned_normal(const Value* __restrict__ x, const Value* __restrict__ maps, const float* __restrict__ weights, Value* out,
               const Value* __restrict__ table, int items, int map_items, int weight_items, int weight_planes, int coils,
               int nz, int per_group) {
    extern __shared__ double shared_memory[];
    const Task t(map_items, 1, coils, nz, ROWS, STRIDE, WIDTH, per_group);
    const int column = threadIdx.x & (WIDTH - 1), j = threadIdx.x >> SHIFT;
    const bool works = (THREADS == First::COUNT || threadIdx.x < First::COUNT) && t.inside(column);
    const float* w = recon::weights_of(t, weights, weight_items, weight_planes, N);
    const Value *image = x + t.voxel(0, j) + column, *map = maps + t.map(0, t.first, j) + column;
    constexpr int STEP = First::M * STRIDE;
    Value sum[First::R];
#pragma unroll
    for (int k = 0; k < First::R; ++k) sum[k] = {0, 0};
    for (int coil = t.first; coil < t.last; ++coil, map += (long long)(nz) * ROWS * STRIDE) {
        const Value *given = image + nothing_forward(coil), *own = map + nothing_backward(coil);
        filter(
            own_column(shared_memory), table, w, works, coil,
            [&](int k, int) { return within(j, k) ? recon::times(map[k * STEP], given[k * STEP]) : Value{0, 0}; },
            [&](int k, int, Value v) {
                if (within(j, k)) sum[k] = sum[k] + recon::conj_times(own[k * STEP], v);
            });
    }
    Value* to = out + t.group * (long long)(items) * nz * ROWS * STRIDE + t.voxel(0, j) + column;
    if (works)
#pragma unroll
        for (int k = 0; k < First::R; ++k)
            if (within(j, k)) to[k * STEP] = sum[k];
}
