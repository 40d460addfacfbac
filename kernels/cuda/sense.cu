// Multi-coil encoding along one phase encode. A block processes a strip of columns of one plane for the coils of a
// group: map, transform, weight, transform back, and into the sum, while the strip is in shared memory. Coils are added
// in order, and groups after them in `sum_groups`, without atomics: two runs give the same bits.
#include "task.h"

using recon::Plan;
using recon::Strip;
using recon::Task;
using recon::Value;
using recon::weights_of;

// Values of the sum that a thread holds in registers; a larger sum is kept in the output.
constexpr int HELD = 16;

// rows[place(y)] = sum over sets of S x, zero past the image.
template <class Place>
__device__ void expand(const Task& t, const Strip& s, const Value* x, const Value* maps, int coil, int length, Place place) {
    for (int i = threadIdx.x; i < length << s.shift; i += blockDim.x) {
        const int y = s.row(i), column = s.column(i);
        Value v = {0, 0};
        if (y < t.ny && t.inside(column))
            for (int set = 0; set < t.sets; ++set) {
                Value part = recon::times(maps[t.map(set, coil, y) + column], x[t.voxel(set, y) + column]);
                v = v + part;
            }
        s.at(place(y), column) = v;
    }
    __syncthreads();
}

// For each coil of the group: `fill` the strip, then add conj(S) rows[place(y)] to the sum that goes to `out`.
template <class Fill, class Place>
__device__ void combine(const Task& t, const Strip& s, const Value* maps, Value* out, Fill fill, Place place) {
    const int image = (t.sets * t.ny) << s.shift;
    const bool held = image <= HELD * int(blockDim.x);
    Value sum[HELD];
#pragma unroll
    for (int h = 0; h < HELD; ++h) sum[h] = {0, 0};
    for (int coil = t.first; coil < t.last; ++coil) {
        fill(coil);
        auto part = [&](int i, Value& to) {
            const int column = s.column(i), row = s.row(i), set = t.sets == 1 ? 0 : row / t.ny, y = row - set * t.ny;
            if (!t.inside(column)) return;
            Value v = recon::conj_times(maps[t.map(set, coil, y) + column], s.at(place(y), column));
            to = to + v;
        };
        if (held) {
#pragma unroll
            for (int h = 0; h < HELD; ++h) {
                const int i = threadIdx.x + h * blockDim.x;
                if (i < image) part(i, sum[h]);
            }
        } else {
            for (int i = threadIdx.x; i < image; i += blockDim.x) {
                const int row = s.row(i), set = row / t.ny;
                if (!t.inside(s.column(i))) continue;
                Value& to = out[t.voxel(set, row - set * t.ny) + s.column(i)];
                if (coil == t.first) to = {0, 0};
                part(i, to);
            }
        }
        __syncthreads();
    }
    if (!held) return;
#pragma unroll
    for (int h = 0; h < HELD; ++h) {
        const int i = threadIdx.x + h * blockDim.x, row = s.row(i), set = row / t.ny;
        if (i < image && t.inside(s.column(i))) out[t.voxel(set, row - set * t.ny) + s.column(i)] = sum[h];
    }
}

// Index of sample n of N, centred, in the order of an FFT, and the inverse.
__device__ int uncentred(int n, int N) { return n >= N / 2 ? n - N / 2 : n - N / 2 + N; }
__device__ int centred(int f, int N) { return f < N - N / 2 ? f + N / 2 : f + N / 2 - N; }

// out[group] = sum over its coils of conj(S) F^-1 w F S x. x (item, set, z, y, x), maps (item or 1, set, coil, z, y, x),
// weights (item or 1, z or 1, n) in the FFT's order and scaled, out (group, item, set, z, y, x), n >= ny.
extern "C" __global__ void __launch_bounds__(256)
sense_normal(const Value* x, const Value* maps, const float* weights, Value* out, const int* passes, const float* table,
             const int* frequency, int n, int pass_count, int items, int map_items, int weight_items, int weight_planes,
             int sets, int coils, int nz, int ny, int nx, int shift, int per_group) {
    extern __shared__ double shared_memory[];
    const Plan plan = {n, pass_count, passes, table, frequency};
    const Strip s = {reinterpret_cast<Value*>(shared_memory), shift, n | 1};
    const Task t(map_items, sets, coils, nz, ny, nx, 1 << shift, per_group);
    const float* w = weights_of(t, weights, weight_items, weight_planes, n);
    auto same = [](int y) { return y; };
    auto fill = [&](int coil) {
        expand(t, s, x, maps, coil, n, same);
        recon::filter(plan, s, w);
    };
    combine(t, s, maps, out + t.group * (long long)(items) * sets * nz * ny * nx, fill, same);
}

// y = w F S x, (item, coil, z, y, x), centred; w (item or 1, z or 1, ny), centred and scaled. Groups are single coils.
extern "C" __global__ void __launch_bounds__(256)
sense_encode(const Value* x, const Value* maps, const float* weights, Value* out, const int* passes, const float* table,
             const int* frequency, int n, int pass_count, int items, int map_items, int weight_items, int weight_planes,
             int sets, int coils, int nz, int ny, int nx, int shift, int per_group) {
    extern __shared__ double shared_memory[];
    const Plan plan = {n, pass_count, passes, table, frequency};
    const Strip s = {reinterpret_cast<Value*>(shared_memory), shift, n | 1};
    const Task t(map_items, sets, coils, nz, ny, nx, 1 << shift, per_group);
    const float* w = weights_of(t, weights, weight_items, weight_planes, n);
    for (int coil = t.first; coil < t.last; ++coil) {
        expand(t, s, x, maps, coil, n, [=](int y) { return uncentred(y, n); });
        recon::forward(plan, s);
        for (int i = threadIdx.x; i < n << shift; i += blockDim.x) {
            const int ky = centred(frequency[s.row(i)], n), column = s.column(i);
            const Value v = s.at(s.row(i), column);
            if (t.inside(column)) out[t.sample(coil, ky) + column] = {v.re * w[ky], v.im * w[ky]};
        }
        __syncthreads();
    }
}

// out[group] = sum over its coils of conj(S) F^-1 (w y), the transpose of `sense_encode`.
extern "C" __global__ void __launch_bounds__(256)
sense_decode(const Value* y, const Value* maps, const float* weights, Value* out, const int* passes, const float* table,
             const int* frequency, int n, int pass_count, int items, int map_items, int weight_items, int weight_planes,
             int sets, int coils, int nz, int ny, int nx, int shift, int per_group) {
    extern __shared__ double shared_memory[];
    const Plan plan = {n, pass_count, passes, table, frequency};
    const Strip s = {reinterpret_cast<Value*>(shared_memory), shift, n | 1};
    const Task t(map_items, sets, coils, nz, ny, nx, 1 << shift, per_group);
    const float* w = weights_of(t, weights, weight_items, weight_planes, n);
    auto fill = [&](int coil) {
        for (int i = threadIdx.x; i < n << shift; i += blockDim.x) {
            const int ky = centred(frequency[s.row(i)], n), column = s.column(i);
            Value v = {0, 0};
            if (w[ky] != 0 && t.inside(column)) v = y[t.sample(coil, ky) + column];  // unmeasured samples are not read
            s.at(s.row(i), column) = {v.re * w[ky], v.im * w[ky]};
        }
        __syncthreads();
        recon::backward(plan, s);
    };
    combine(t, s, maps, out + t.group * (long long)(items) * sets * nz * ny * nx, fill,
            [=](int m) { return uncentred(m, n); });
}

// out = sum over groups, in order.
extern "C" __global__ void sum_groups(const Value* parts, Value* out, int groups, long long count) {
    for (long long i = blockIdx.x * (long long)(blockDim.x) + threadIdx.x; i < count; i += (long long)(gridDim.x) * blockDim.x) {
        Value sum = parts[i];
        for (int g = 1; g < groups; ++g) sum = sum + parts[g * count + i];
        out[i] = sum;
    }
}
