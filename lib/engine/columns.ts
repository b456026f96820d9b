/** Lists of token ids as the addon takes them. */
import type { ListColumn } from "./addon.js";

export function listColumn(lists: readonly ArrayLike<number>[]): ListColumn {
  const offsets = new Int32Array(lists.length + 1);
  lists.forEach((list, index) => {
    offsets[index + 1] = (offsets[index] as number) + list.length;
  });
  const values = new Int32Array(offsets[lists.length] as number);
  lists.forEach((list, index) => values.set(list, offsets[index]));
  return { offsets, values };
}

/** List `row` of a column, as a view. */
export function listAt(column: ListColumn, row: number): Int32Array {
  return column.values.subarray(column.offsets[row], column.offsets[row + 1]);
}
