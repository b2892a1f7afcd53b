import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "dev.edgeb.assistant"
    compileSdk = libs.versions.compileSdk.get().toInt()

    defaultConfig {
        applicationId = "dev.edgeb.assistant"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = project.version.toString()
        // What the screen of licenses names: what this APK holds.
        buildConfigField("boolean", "KLEIDIAI", providers.gradleProperty("edgeb.kleidiai").get())
        buildConfigField("boolean", "LITERT", "true")
    }

    buildFeatures {
        buildConfig = true
    }

    flavorDimensions += "events"
    productFlavors {
        // What the user tells it; no permission.
        create("plain") {
            dimension = "events"
            isDefault = true
        }
        // Also which apps were used, where the user allows it in the system's settings.
        create("usage") {
            dimension = "events"
            applicationIdSuffix = ".usage"
        }
    }

    buildTypes {
        release {
            isMinifyEnabled = true
            isShrinkResources = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"))
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    packaging {
        jniLibs {
            // llama.cpp lists a folder to find the CPU variants, so they must be files.
            useLegacyPackaging = true
        }
    }
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
    }
}

dependencies {
    implementation(project(":core"))
    implementation(project(":runtime"))
    "usageImplementation"(project(":usage"))
    // For LiteRT bundles; llama.cpp's do without. LITERT above says whether they are here.
    runtimeOnly(libs.litert)
    runtimeOnly(libs.litert.gpu)
    // For contexts beside them; Qualcomm's own license covers the second.
    if (providers.gradleProperty("edgeb.npu").get().toBooleanStrict()) {
        runtimeOnly(libs.litert.npu.qualcomm)
        runtimeOnly(libs.qnn.runtime)
    }

    testImplementation(libs.junit)
}
