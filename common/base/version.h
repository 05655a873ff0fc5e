/* version.h - the version and how the program was built
 * SPDX-License-Identifier: MIT
 *
 * buildinfo.h is written by the Makefile into the build folder when its contents change.
 */
#ifndef SSM_VERSION_H
#define SSM_VERSION_H

#include "buildinfo.h" /* SSM_VERSION "0.1.0-g1a2b3c4", SSM_BUILD "compiler: ...\nhdf5: ...\n" */

#endif
