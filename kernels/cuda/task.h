// The task of a block of the encoding kernels: a strip of columns of one plane, and the coils of a group.
#pragma once

#include "columns.h"

namespace recon {

struct Task {
    const int sets, coils, nz, ny, nx;
    long long item, map_item;
    int z, x0, first, last, group;

    // Blocks count strips first, then planes, groups of coils and items.
    RECON_INLINE Task(int map_items, int s, int c, int z_, int y, int x, int width, int per_group)
        : sets(s), coils(c), nz(z_), ny(y), nx(x) {
        const int strips = (nx + width - 1) / width, groups = (coils + per_group - 1) / per_group;
        long long b = blockIdx.x;
        x0 = int(b % strips) * width, b /= strips;
        z = int(b % nz), b /= nz;
        group = int(b % groups), item = b / groups;
        map_item = map_items == 1 ? 0 : item;
        first = group * per_group;
        last = first + per_group < coils ? first + per_group : coils;
    }
    RECON_INLINE long long voxel(int set, int y) const { return (((item * sets + set) * nz + z) * ny + y) * nx + x0; }
    RECON_INLINE long long sample(int coil, int y) const { return (((item * coils + coil) * nz + z) * ny + y) * nx + x0; }
    RECON_INLINE long long map(int set, int coil, int y) const {
        return ((((map_item * sets + set) * coils + coil) * nz + z) * ny + y) * nx + x0;
    }
    RECON_INLINE bool inside(int column) const { return x0 + column < nx; }
};

RECON_INLINE const float* weights_of(const Task& t, const float* weights, int weight_items, int weight_planes, int length) {
    const long long item = weight_items == 1 ? 0 : t.item;
    return weights + (item * weight_planes + (weight_planes == 1 ? 0 : t.z)) * length;
}

}  // namespace recon
