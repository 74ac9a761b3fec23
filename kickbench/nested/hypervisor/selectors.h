/* SPDX-License-Identifier: Apache-2.0 */
/* The selectors of L1's GDT, which L2 uses too; for C and assembly. */
#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10
#define TSS_SELECTOR  0x18
